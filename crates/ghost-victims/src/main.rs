//! `victim`: all victims in one binary.
//!
//! ```text
//! victim list                       all names with their flags, one a line
//! victim AREA/NAME DIR              runs one by the protocol of the README
//! victim test [--stop] [FILTER…]    runs those whose name holds a FILTER; --stop: with SIGSTOP and SIGCONT
//! victim test --spoil [FILTER…]     spoils what they have open: each that does not notice is told
//! victim ns [--reaped FILE] CMD…    runs CMD in its own pid and mount namespace, under an init that reaps
//! victim bare CMD…                  becomes CMD, leader of a session of its own, with standard descriptors only
//! ```
use ghost_victims::{Ctx, Flag, areas, selftest};
use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["list"] => {
            for (name, v) in areas::all() {
                let flags: Vec<String> = v.flags.iter().map(show).collect();
                println!("{}", [vec![name], flags].concat().join("\t"));
            }
            ExitCode::SUCCESS
        }
        ["test", "--stop", filters @ ..] => selftest::run(filters, selftest::Disturb::Stop),
        ["test", "--spoil", filters @ ..] => selftest::spoil(filters),
        ["test", filters @ ..] => selftest::run(filters, selftest::Disturb::Nothing),
        ["ns", "--reaped", file, cmd @ ..] if !cmd.is_empty() => selftest::namespace(Some(file), cmd),
        ["ns", cmd @ ..] if !cmd.is_empty() => selftest::namespace(None, cmd),
        ["bare", cmd, args @ ..] => bare(cmd, args),
        [name, dir, ..] => match areas::find(name) {
            Some((run, _)) => victim(dir, run),
            None => usage(&format!("no victim is called {name}")),
        },
        _ => usage("what shall I do?"),
    }
}

fn bare(cmd: &str, args: &[&str]) -> ExitCode {
    use std::os::unix::process::CommandExt as _;
    ghost_victims::call!(setsid());
    ghost_victims::call!(close_range(3, u32::MAX, 0));
    let e = std::process::Command::new(cmd).args(args).exec();
    eprintln!("victim: {cmd}: {e}");
    ExitCode::from(127)
}

fn victim(dir: &str, run: fn(&mut Ctx)) -> ExitCode {
    // What a victim finds must reach its verdict, not a terminal that it may not have.
    std::panic::set_hook(Box::new(|_| {}));
    ghost_victims::call!(setsid());
    // Whatever the runner left open is not the subject of any victim.
    ghost_victims::call!(close_range(3, u32::MAX, 0));
    ExitCode::from(Ctx::root(dir).run(run) as u8)
}

fn show(f: &Flag) -> String {
    match f {
        Flag::SamePid => "samepid".to_owned(),
        Flag::NoDup(why) => format!("nodup={why}"),
        Flag::Refuse(kind) => format!("refuse={kind}"),
        Flag::Accept(kind) => format!("accept={kind}"),
        Flag::Asked => "asked".to_owned(),
        Flag::NoStop => "nostop".to_owned(),
        Flag::Terminal => "terminal".to_owned(),
        Flag::Seconds(n) => format!("seconds={n}"),
    }
}

fn usage(what: &str) -> ExitCode {
    eprintln!("victim: {what}\nusage: victim list | AREA/NAME DIR | test [--stop] [FILTER…] | ns [--reaped FILE] CMD…");
    ExitCode::from(2)
}
