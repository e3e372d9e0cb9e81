//! Real programs: what each needs, how it is started, and what must come out to the byte.
//!
//! Every one is deterministic when undisturbed; its sources are in `programs/`.

/// A program under test.
pub struct Program {
    /// Its name in a test's name.
    pub name: &'static str,
    /// Commands that must be installed.
    pub needs: &'static [&'static str],
    /// Files put into its directory: name, content.
    pub files: &'static [(&'static str, &'static str)],
    /// A shell script that makes the rest, run once.
    pub prepare: &'static str,
    /// The words of the command.
    pub run: &'static [&'static str],
    /// A shell script run once it has started: brings a server into the state that must survive.
    pub after_start: &'static str,
    /// A shell script run at the end: asks a server for its state and ends it.
    pub finish: &'static str,
    /// Files of its directory that must come out the same, besides its standard output.
    pub outputs: &'static [&'static str],
    /// Whether its standard output is the same in every run.
    pub says_the_same: bool,
    /// Whether it needs a network of its own, with nothing but the loopback device.
    pub own_net: bool,
}

/// What most have in common.
pub const PLAIN: Program = Program {
    name: "",
    needs: &[],
    files: &[],
    prepare: "",
    run: &[],
    after_start: "",
    finish: "",
    outputs: &[],
    says_the_same: true,
    own_net: false,
};

const PROJECT: (&str, &str) = ("project.sh", include_str!("../programs/project.sh"));

/// The program of this name.
pub fn named(name: &str) -> Option<&'static Program> {
    ALL.iter().chain(crate::real_wide::ALL).chain(crate::real_wide::STRESSORS).find(|p| p.name == name)
}

/// Those that every run plays.
pub const ALL: &[Program] = &[
    Program {
        name: "python3",
        needs: &["python3"],
        files: &[("threads.py", include_str!("../programs/threads.py"))],
        run: &["python3", "threads.py"],
        outputs: &["log"],
        ..PLAIN
    },
    Program {
        name: "perl",
        needs: &["perl"],
        files: &[("text.pl", include_str!("../programs/text.pl"))],
        run: &["perl", "text.pl"],
        outputs: &["words"],
        ..PLAIN
    },
    Program {
        name: "xz",
        needs: &["xz", "perl"],
        prepare: "perl -e 'my $x = 1; for (1 .. 1500000) { $x = ($x * 1103515245 + 12345) % 2147483648; print $x >> 20, \" \" }' > input",
        run: &["xz", "-T2", "-6", "--block-size=1MiB", "-k", "-c", "input"],
        ..PLAIN
    },
    Program {
        name: "cc1",
        needs: &["gcc", "sed"],
        files: &[PROJECT],
        prepare: "sh project.sh 24; i=0; while [ $i -lt 24 ]; do sed \"s/\\bf\\([0-9]*\\)(/f${i}_\\1(/g\" m$i.c; i=$((i + 1)); done > all.c; gcc -E -P all.c > all.i",
        run: &["sh", "-c", "exec $(gcc -print-prog-name=cc1) -quiet -fpreprocessed -O2 all.i -o all.s"],
        outputs: &["all.s"],
        ..PLAIN
    },
    Program {
        name: "sqlite3",
        needs: &["sqlite3"],
        files: &[("bank.sql", include_str!("../programs/bank.sql"))],
        run: &["sqlite3", "bank.db", ".read bank.sql"],
        ..PLAIN
    },
    Program {
        name: "node",
        needs: &["node"],
        files: &[("workers.js", include_str!("../programs/workers.js"))],
        run: &["node", "workers.js"],
        outputs: &["log"],
        ..PLAIN
    },
    Program {
        name: "java",
        needs: &["java", "javac"],
        files: &[("Main.java", include_str!("../programs/Main.java"))],
        prepare: "javac Main.java",
        run: &["java", "-XX:+PerfDisableSharedMem", "-Xmx128m", "-cp", ".", "Main"],
        outputs: &["log"],
        ..PLAIN
    },
    Program {
        name: "go",
        needs: &["go"],
        files: &[("main.go", include_str!("../programs/main.go"))],
        prepare: "GO111MODULE=off GOCACHE=$PWD/cache go build -o prog main.go && rm -rf cache",
        run: &["./prog"],
        outputs: &["log"],
        ..PLAIN
    },
    Program {
        name: "rust-static",
        needs: &["rustc"],
        files: &[("fixed.rs", include_str!("../programs/fixed.rs"))],
        prepare: "rustc --edition 2021 -O -C target-feature=+crt-static fixed.rs -o prog",
        run: &["./prog"],
        outputs: &["log"],
        ..PLAIN
    },
    Program {
        name: "redis",
        needs: &["redis-server", "redis-cli"],
        run: &[
            "redis-server", "--port", "0", "--unixsocket", "sock", "--save", "", "--appendonly", "yes", "--enable-debug-command",
            "yes", "--daemonize", "no", "--logfile", "server.log",
        ],
        after_start: "until redis-cli -s sock ping > /dev/null 2>&1; do sleep 0.01; done
            redis-cli -s sock eval 'for i = 1, 200000 do redis.call(\"set\", \"key\" .. i, \"value \" .. i * 7919) end
                for i = 1, 3000 do redis.call(\"zadd\", \"z\", i * 7 % 1000, \"m\" .. i);
                redis.call(\"hset\", \"h\" .. i % 50, \"f\" .. i, i); redis.call(\"lpush\", \"l\", i) end' 0 > /dev/null",
        finish: "exec > digest; redis-cli -s sock debug digest; redis-cli -s sock dbsize; redis-cli -s sock zrange z 0 20
            redis-cli -s sock incrby counter 5; redis-cli -s sock debug loadaof; redis-cli -s sock debug digest
            redis-cli -s sock shutdown nosave || true",
        outputs: &["digest"],
        says_the_same: false,
        ..PLAIN
    },
    Program {
        name: "postgres",
        needs: &["postgres", "initdb", "psql", "setpriv"],
        files: &[
            ("postgres.sh", include_str!("../programs/postgres.sh")),
            ("postgres.sql", include_str!("../programs/postgres.sql")),
        ],
        // It refuses to run as root.
        prepare: "chown nobody:nogroup . && setpriv --reuid=nobody --regid=nogroup --clear-groups \
            initdb -D $PWD/data -U postgres -A trust --no-sync --wal-segsize=1 > /dev/null",
        run: &["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "sh", "postgres.sh"],
        ..PLAIN
    },
    Program {
        name: "pipeline",
        needs: &["bash", "seq", "sort", "gzip"],
        run: &["bash", "-c", "seq 1 400000 | sort -r | gzip -n -9 -c"],
        ..PLAIN
    },
    Program {
        name: "make",
        needs: &["make", "gcc", "sh"],
        files: &[PROJECT],
        prepare: "sh project.sh 16",
        run: &["sh", "-c", "make -s -j2 && ./prog"],
        outputs: &["prog"],
        ..PLAIN
    },
    Program {
        name: "stress-ng",
        needs: &["stress-ng"],
        run: &[
            "stress-ng", "--cpu", "1", "--cpu-ops", "300", "--vm", "1", "--vm-bytes", "8M", "--vm-ops", "30000", "--pipe", "1",
            "--pipe-ops", "100000", "--verify", "--temp-path", ".",
        ],
        says_the_same: false,
        ..PLAIN
    },
    Program {
        name: "multiprocessing",
        needs: &["python3"],
        files: &[("multi.py", include_str!("../programs/multi.py"))],
        run: &["python3", "multi.py"],
        ..PLAIN
    },
    Program { name: "bash", needs: &["bash", "bc"], files: &[("jobs.sh", include_str!("../programs/jobs.sh"))], run: &["bash", "jobs.sh"], ..PLAIN },
    Program {
        name: "nginx",
        needs: &["nginx", "curl"],
        prepare: "mkdir www; seq 50000 > www/numbers; printf '%s' 'daemon off; user root; worker_processes 2; pid nginx.pid; error_log error.log; \
            events { } http { access_log access.log; client_body_temp_path t1; proxy_temp_path t2; fastcgi_temp_path t3; \
            uwsgi_temp_path t4; scgi_temp_path t5; proxy_cache_path cache keys_zone=zone:1m; limit_req_zone $binary_remote_addr zone=lim:1m rate=1000r/s; \
            server { listen unix:sock; listen 127.0.0.1:8125; root www; location /p { limit_req zone=lim burst=100; \
            proxy_cache zone; proxy_cache_valid 200 1h; proxy_pass http://127.0.0.1:8125/numbers; } } }' > nginx.conf",
        run: &["nginx", "-p", ".", "-c", "nginx.conf"],
        after_start: "until curl -sf --unix-socket sock http://x/numbers > /dev/null; do sleep 0.01; done; curl -sf http://127.0.0.1:8125/p > /dev/null",
        finish: "for i in 1 2 3 4; do curl -sf --unix-socket sock http://x/numbers; curl -sf http://127.0.0.1:8125/p; done | cksum > answer; kill -QUIT $(cat nginx.pid)",
        outputs: &["answer"],
        own_net: true,
        ..PLAIN
    },
    Program {
        name: "tmux",
        needs: &["tmux", "bash", "vim"],
        run: &["env", "-u", "TMUX", "TERM=xterm", "PS1=> ", "tmux", "-S", "sock", "-f", "/dev/null", "-D"],
        after_start: "export TERM=xterm; t() { tmux -N -S sock \"$@\"; }
            until t new-session -d -s one -x 80 -y 24 'bash --norc' 2> /dev/null; do sleep 0.01; done
            t send-keys 'x=41; sleep 1000 &' Enter; t split-window -h 'vim -u NONE -n text'; t send-keys -l iline; t send-keys Enter -l second
            until t capture-pane -p | grep -q second; do sleep 0.02; done; t new-window 'cat > typed'; t send-keys begun Enter; sleep 0.2",
        finish: "export TERM=xterm; t() { tmux -N -S sock \"$@\"; }; t send-keys Enter C-d
            t send-keys -t one:0.0 'echo $((x + 1)) > answer; jobs -r | wc -l >> answer; stty size >> answer; tty | cut -c1-9 >> answer; kill %1; exit' Enter
            until [ \"$(wc -l < answer 2> /dev/null)\" = 4 ] && [ \"$(wc -l < typed)\" = 2 ]; do sleep 0.02; done
            until t send-keys -t one:0 -l third && t send-keys -t one:0 Escape :wq Enter && sleep 0.2 && grep -q third text; do sleep 0.02; done
            t kill-server 2> /dev/null || true",
        outputs: &["answer", "text", "typed"],
        ..PLAIN
    },
];
