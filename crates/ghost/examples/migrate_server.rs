//! A server that counts its visitors moves while it listens: `cargo run -p ghost --example migrate_server`, as root.
//!
//! Both ends are in this one program, with TCP between them. On two hosts the one half calls [`ghost::migrate`] and the other
//! [`ghost::receive`], as `ghost migrate` and `ghost receive` do.

use ghost::{ExportOptions, ImportOptions};
use std::error::Error;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};

type Anything = Box<dyn Error + Send + Sync>;

fn main() -> Result<(), Anything> {
    if std::env::args().nth(1).as_deref() == Some("serve") {
        return serve();
    }
    let mut server = Command::new(std::env::current_exe()?)
        .arg("serve")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let mut address = String::new();
    BufReader::new(server.stdout.take().ok_or("no stdout")?).read_line(&mut address)?;
    println!("pid {} says: {}", server.id(), visit(&address)?);
    println!("pid {} says: {}", server.id(), visit(&address)?);
    let there = move_it(&mut server)?;
    println!("it has moved; pid {there} says: {}", visit(&address)?);
    Command::new("kill").arg(there.to_string()).status()?;
    Ok(())
}

/// The server: no file, no thread, no care for what happens to it.
fn serve() -> Result<(), Anything> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    println!("{}", listener.local_addr()?);
    // The pipe to whoever started it leads out of what will travel.
    let null = std::fs::File::options().write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdout(null)?;
    for visits in 1.. {
        listener.accept()?.0.write_all(format!("you are visitor {visits}").as_bytes())?;
    }
    Ok(())
}

fn visit(address: &str) -> Result<String, Anything> {
    let mut answer = String::new();
    TcpStream::connect(address.trim())?.read_to_string(&mut answer)?;
    Ok(answer)
}

fn move_it(server: &mut Child) -> Result<i32, Anything> {
    let meeting = TcpListener::bind("127.0.0.1:0")?;
    let to = meeting.local_addr()?;
    let there = std::thread::spawn(move || -> Result<i32, Anything> {
        let (mut peer, _) = meeting.accept()?;
        let options = ImportOptions { detach: true, ..ImportOptions::default() };
        Ok(ghost::receive(&mut peer.try_clone()?, &mut peer, &options)?.root)
    });
    let mut peer = TcpStream::connect(to)?;
    let (report, _) = ghost::migrate(server.id() as i32, &mut peer.try_clone()?, &mut peer, &ExportOptions::default())?;
    // Its parent must hear of its end for the pid to be free. Here ghost is in the parent and has heard already: ECHILD.
    let _ = server.wait();
    println!("{} bytes of memory went over", report.page_bytes);
    there.join().map_err(|_| "the receiving half has panicked")?
}
