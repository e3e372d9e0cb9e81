//! More real programs: servers, interpreters, shells, the stressors of stress-ng. They are played when `GHOST_WIDE` is set.
use crate::real::{PLAIN, Program};

macro_rules! source {
    ($name:literal) => {
        ($name, include_str!(concat!("../programs/wide/", $name)))
    };
}

/// A stressor that verifies what it does, two of it for two seconds.
macro_rules! stressors {
    ($($name:literal)*) => { [$(Program {
        name: concat!("stress-", $name),
        needs: &["stress-ng"],
        run: &["stress-ng", concat!("--", $name), "2", "--verify", "-t", "2", "--temp-path", "."],
        says_the_same: false,
        ..PLAIN
    },)*] };
}

/// The stressors, one by one.
pub const STRESSORS: &[Program] = &stressors! {
    "fork" "pipe" "pipeherd" "sem" "sem-sysv" "mmap" "mmapfork" "mmapaddr" "timer" "sigq" "eventfd" "futex" "switch" "pthread" "clone" "vm-splice" "sigfd" "sigsegv" "signal" "sigpending" "poll" "fault" "brk" "bigheap" "stack" "mremap" "malloc" "memfd" "shm" "shm-sysv" "mq" "msg" "timerfd" "itimer" "alarm" "nanosleep" "zombie" "vfork" "wait" "kill" "sock" "sockpair" "sockfd" "udp" "fifo" "flock" "fcntl" "lockf" "locka" "lease" "inotify" "dentry" "dir" "seek" "hdd" "link" "rename" "symlink" "fallocate" "dup" "open" "close" "pidfd" "mlock" "madvise" "mprotect" "msync" "matrix" "qsort" "tsearch" "memcpy" "crypt" "zlib" "tree" "membarrier" "rseq" "schedpolicy" "prctl" "exec" "aio" "iomix" "splice" "tee" "vm-rw" "userfaultfd" "seccomp" "sigabrt" "sigchld" "sigio" "sigrt" "sigsuspend" "tlb-shootdown" "spawn" "nice" "personality" "landlock" "pty" "io-uring" "daemon" "context" "copy-file" "mutex" "procfs" "yield" "zero" "null" "remap" "peterson" "epoll" "sockabuse" "session" "bad-altstack" "vm-addr" "mcontend" "memhotplug" "shellsort" "numa" "opcode" "branch" "jpeg" "hash" "stackmmap" "rmap" "secretmem" "usersyscall" "prefetch" "getrandom" "cyclic" "sleep" "readahead" "utime" "xattr" "chroot" "env" "msyncmany" "dnotify" "fanotify" "handle" "revio" "sendfile" "ring-pipe" "io" "fpunch" "skiplist" "judy" "bsearch" "list" "lsearch" "heapsort" "mergesort" "radixsort" "str" "wcs" "rotate" "sparsematrix" "vecmath" "vecwide" "x86cpuid" "tsc" "set"
};

/// All of them.
pub const ALL: &[Program] = &[
    Program { name: "asyncio", needs: &["python3"], files: &[source!("async.py")], run: &["python3", "async.py"], ..PLAIN },
    Program { name: "numpy", needs: &["python3"], files: &[source!("blas.py")], run: &["python3", "blas.py"], ..PLAIN },
    Program {
        name: "ruby",
        needs: &["ruby"],
        files: &[source!("fibers.rb")],
        run: &["ruby", "fibers.rb"],
        outputs: &["child"],
        ..PLAIN
    },
    Program {
        name: "php",
        needs: &["php"],
        files: &[source!("gen.php")],
        run: &["php", "gen.php"],
        outputs: &["log"],
        ..PLAIN
    },
    Program { name: "lua", needs: &["lua5.4"], files: &[source!("co.lua")], run: &["lua5.4", "co.lua"], ..PLAIN },
    Program {
        name: "ocaml",
        needs: &["ocamlopt"],
        files: &[source!("tree.ml")],
        prepare: "ocamlopt tree.ml -o prog",
        run: &["./prog"],
        outputs: &["log"],
        ..PLAIN
    },
    Program {
        name: "epoll",
        needs: &["gcc"],
        files: &[source!("epoll.c")],
        prepare: "gcc -O2 -static -pthread epoll.c -o prog",
        run: &["./prog"],
        ..PLAIN
    },
    Program {
        name: "busybox",
        needs: &["busybox"],
        run: &[
            "busybox", "sh", "-c",
            "i=0; while [ $i -lt 150 ]; do x=$(busybox seq 1 $((i * 20 + 5)) | busybox sort -n | busybox md5sum); \
             echo $i $x | busybox awk '{ print $1 * 3, $2 }'; i=$((i + 1)); done",
        ],
        ..PLAIN
    },
    Program {
        name: "xargs",
        needs: &["find", "xargs", "sha256sum"],
        prepare: "mkdir tree; i=0; while [ $i -lt 400 ]; do seq $i $((i * 20 + 3000)) > tree/$i; i=$((i + 1)); done",
        run: &["sh", "-c", "find tree -type f | sort | xargs -n 4 -P 2 sha256sum | sort"],
        ..PLAIN
    },
    Program {
        name: "sort",
        needs: &["sort", "perl"],
        prepare: "perl -e 'my $x = 1; for (1 .. 600000) { $x = ($x * 1103515245 + 12345) % 2147483648; print $x >> 4, \"\\n\" }' > input",
        run: &["sort", "-n", "--parallel=2", "-S", "1M", "--batch-size=8", "-o", "sorted", "input"],
        outputs: &["sorted"],
        ..PLAIN
    },
    Program {
        name: "tar",
        needs: &["tar", "gzip", "perl"],
        prepare: "mkdir tree; i=0; while [ $i -lt 60 ]; do perl -e 'print map { chr(32 + ($_ * $_ * 7 + $_ / 3) % 90) } 1 .. 200000' > tree/$i; i=$((i + 1)); done",
        run: &[
            "sh", "-c",
            "tar --sort=name --mtime=@0 --owner=0 --group=0 -cf - tree | gzip -n -6 | tee out.tgz | sha256sum; tar -xzf out.tgz --to-stdout | sha256sum",
        ],
        ..PLAIN
    },
    Program {
        name: "rsync",
        needs: &["rsync", "perl"],
        prepare: "mkdir src; i=0; while [ $i -lt 40 ]; do perl -e 'print map { chr(32 + ($_ * $_ * 7 + $_ / 3) % 90) } 1 .. 100000' > src/$i; i=$((i + 1)); done",
        run: &[
            "sh", "-c",
            "rsync -a --bwlimit=3000 src/ dst/ && find dst -type f | sort | xargs sha256sum",
        ],
        ..PLAIN
    },
    Program {
        name: "git",
        needs: &["git"],
        prepare: "git init -q repo; cd repo; git config user.name a; git config user.email a@b; i=0; while [ $i -lt 200 ]; do seq $i $((i * 40 + 2000)) > f$((i % 9)); git add .; git commit -q -m $i; i=$((i + 1)); done",
        run: &["sh", "-c", "git clone -q --no-local repo other && cd other && git repack -q -a -d -f --depth=50 --window=50 --threads=2 && git fsck --no-progress && git log --format=%T | sha256sum"],
        ..PLAIN
    },
    Program {
        name: "ffmpeg",
        needs: &["ffmpeg"],
        run: &[
            "ffmpeg", "-nostdin", "-loglevel", "error", "-f", "lavfi", "-i", "testsrc2=duration=12:size=320x240:rate=25", "-f", "lavfi",
            "-i", "sine=frequency=440:duration=12", "-threads", "4", "-c:v", "mpeg4", "-c:a", "aac", "-fflags", "+bitexact",
            "-flags:v", "+bitexact", "-flags:a", "+bitexact", "-y", "movie.avi",
        ],
        outputs: &["movie.avi"],
        ..PLAIN
    },
    Program {
        name: "7zip",
        needs: &["7zz", "perl"],
        prepare: "perl -e 'my $x = 1; for (1 .. 900000) { $x = ($x * 1103515245 + 12345) % 2147483648; print $x >> 20, \" \" }' > input",
        run: &["sh", "-c", "7zz a -bso0 -bsp0 -mmt=2 -mx=5 -mtm- out.7z input && 7zz t -bsp0 out.7z > /dev/null && 7zz e -so out.7z | sha256sum"],
        ..PLAIN
    },
    Program {
        name: "openssl",
        needs: &["openssl"],
        run: &["openssl", "speed", "-seconds", "1", "-multi", "2", "-bytes", "1024", "-evp", "sha256"],
        says_the_same: false,
        ..PLAIN
    },
    Program {
        name: "tail",
        needs: &["tail", "bash"],
        run: &[
            "bash", "-c",
            ": > log; (for i in $(seq 150); do echo line $i >> log; sleep 0.01; done; sleep 0.3) & tail -f --pid=$! -n +1 log",
        ],
        ..PLAIN
    },
    Program {
        name: "inotifywait",
        needs: &["inotifywait", "bash"],
        run: &[
            "bash", "-c",
            "mkdir d; inotifywait -q -m -e close_write --format %f d > seen & p=$!; sleep 0.3; \
             for i in $(seq 100); do echo $i > d/f$i; sleep 0.01; done; sleep 0.3; kill $p; wait $p; cat seen",
        ],
        ..PLAIN
    },
    Program {
        name: "socat",
        needs: &["socat", "bash"],
        run: &[
            "bash", "-c",
            "socat UNIX-LISTEN:s,fork EXEC:'sort -r' & p=$!; until [ -S s ]; do sleep 0.01; done; \
             for i in 1 2 3 4 5 6; do seq $i 60000 | socat -t 10 - UNIX-CONNECT:s | cksum; done; kill $p; wait $p; rm -f s",
        ],
        ..PLAIN
    },
    Program {
        name: "awk",
        needs: &["awk"],
        run: &["awk", "BEGIN { srand(5); for (i = 0; i < 1500000; i++) { k = int(rand() * 5000); n[k] += i % 7; if (i % 50000 == 0) print i, n[k]; fflush() } \
             \"seq 10 | wc -l\" | getline x; print x }"],
        ..PLAIN
    },
    Program {
        name: "memcached",
        needs: &["memcached", "socat"],
        prepare: "i=0; while [ $i -lt 3000 ]; do printf 'set k%d 0 0 5\\r\\n%05d\\r\\n' $i $i; i=$((i + 1)); done > sets; printf 'quit\\r\\n' >> sets; \
            { i=0; while [ $i -lt 3000 ]; do printf 'get k%d\\r\\n' $i; i=$((i + 1)); done; printf 'incr k7 5\\r\\nquit\\r\\n'; } > gets",
        run: &["memcached", "-u", "root", "-s", "sock", "-t", "4", "-P", "pid"],
        after_start: "until socat -t 10 - UNIX-CONNECT:sock < sets > /dev/null 2>&1; do sleep 0.01; done",
        finish: "socat -t 10 - UNIX-CONNECT:sock < gets > answer; kill -TERM $(cat pid)",
        outputs: &["answer"],
        ..PLAIN
    },
    Program {
        name: "mariadb",
        needs: &["mariadbd", "mariadb"],
        prepare: "mariadb-install-db --no-defaults --datadir=$PWD/data --user=root --auth-root-authentication-method=normal > /dev/null 2>&1",
        run: &[
            "sh",
            "-c",
            "exec mariadbd --no-defaults --datadir=$PWD/data --socket=$PWD/sock --skip-networking --user=root --innodb-use-native-aio=0 \
             --pid-file=$PWD/pid --log-error=$PWD/error.log --innodb-buffer-pool-size=16M --innodb-log-file-size=8M",
        ],
        after_start: "until mariadb -S sock -u root -e 'create database d' 2> /dev/null; do sleep 0.05; done
            mariadb -S sock -u root d -e 'create table t (a int primary key, b varchar(40)); insert into t select seq, md5(seq) from seq_1_to_20000; create table m (a int) engine=memory; insert into m select seq from seq_1_to_5000'",
        finish: "mariadb -S sock -u root d -e 'select count(*), sum(crc32(b)) from t; select sum(a) from m; insert into t values (0, 5); select * from t limit 3' > answer; mariadb-admin -S sock -u root shutdown",
        outputs: &["answer"],
        says_the_same: false,
        ..PLAIN
    },
    Program {
        name: "ssh-agent",
        needs: &["ssh-agent", "ssh-keygen", "ssh-add"],
        prepare: "for t in ed25519 rsa ecdsa; do ssh-keygen -q -t $t -N '' -f key-$t; done",
        // It ends with 2 when it is told to.
        run: &["sh", "-c", "ssh-agent -D -a sock; [ $? = 2 ]"],
        after_start: "export SSH_AUTH_SOCK=sock; until ssh-add -q key-ed25519 key-rsa key-ecdsa 2> /dev/null; do sleep 0.01; done",
        finish: "export SSH_AUTH_SOCK=sock; ssh-add -l > answer; ssh-add -T key-rsa.pub key-ed25519.pub && kill -TERM $(sed -n 's/.*Agent pid \\([0-9]*\\).*/\\1/p' out)",
        outputs: &["answer"],
        says_the_same: false,
        ..PLAIN
    },
    Program {
        name: "dbus",
        needs: &["dbus-daemon", "dbus-send"],
        run: &["dbus-daemon", "--session", "--nofork", "--nosyslog", "--address=unix:path=sock", "--print-pid"],
        after_start: "until dbus-send --bus=unix:path=sock --print-reply --dest=org.freedesktop.DBus / org.freedesktop.DBus.ListNames > /dev/null 2>&1; do sleep 0.01; done",
        finish: "dbus-send --bus=unix:path=sock --print-reply --dest=org.freedesktop.DBus / org.freedesktop.DBus.GetId | tail -1 | wc -c > answer; kill $(cat out)",
        outputs: &["answer"],
        says_the_same: false,
        ..PLAIN
    },
    Program {
        name: "node-http",
        needs: &["node", "curl"],
        files: &[source!("serve.js")],
        run: &["node", "serve.js"],
        after_start: "until curl -sf --unix-socket sock -d hello http://x/ > /dev/null; do sleep 0.01; done; for i in 1 2 3; do curl -sf --unix-socket sock -d hello http://x/ > /dev/null; done",
        finish: "curl -sf --unix-socket sock http://x/state > answer; curl -sf --unix-socket sock http://x/end || true",
        outputs: &["answer"],
        ..PLAIN
    },
    Program {
        name: "java-nio",
        needs: &["java", "javac", "socat"],
        files: &[source!("Server.java")],
        prepare: "javac Server.java",
        run: &["java", "-XX:+PerfDisableSharedMem", "-Xmx64m", "-cp", ".", "Server"],
        after_start: "until echo hello | socat -t 5 - TCP:127.0.0.1:8123 > /dev/null 2>&1; do sleep 0.02; done",
        finish: "echo more | socat -t 5 - TCP:127.0.0.1:8123 > answer; echo end | socat -t 5 - TCP:127.0.0.1:8123 >> answer",
        outputs: &["answer"],
        own_net: true,
        ..PLAIN
    },
    Program {
        name: "go-http",
        needs: &["go", "curl"],
        files: &[source!("server.go")],
        prepare: "GO111MODULE=off GOCACHE=$PWD/cache go build -o prog server.go && rm -rf cache",
        run: &["./prog"],
        after_start: "until curl -sf -d hello http://127.0.0.1:8124/ > /dev/null; do sleep 0.02; done",
        finish: "curl -sf -d more http://127.0.0.1:8124/ > answer; curl -sf http://127.0.0.1:8124/end || true",
        outputs: &["answer"],
        own_net: true,
        ..PLAIN
    },
    Program {
        name: "mpi",
        needs: &["mpicc", "mpirun"],
        files: &[source!("ring.c")],
        prepare: "mpicc -O2 ring.c -o prog",
        run: &["mpirun", "--allow-run-as-root", "--oversubscribe", "-np", "2", "--mca", "btl", "vader,self", "--mca", "plm", "isolated", "./prog"],
        ..PLAIN
    },
    Program {
        name: "screen",
        needs: &["screen", "bash"],
        run: &["sh", "-c", "mkdir -m 700 s; TERM=xterm SCREENDIR=$PWD/s exec screen -D -m -S one -c /dev/null bash --norc"],
        after_start: "export TERM=xterm SCREENDIR=$PWD/s; x() { screen -S one -p 0 -X \"$@\"; }
            until x stuff 'echo go > began; x=41\r' > /dev/null 2>&1 && [ -e began ]; do sleep 0.1; done",
        finish: "export TERM=xterm SCREENDIR=$PWD/s; screen -S one -p 0 -X stuff 'echo $((x + 1)) > answer; stty size >> answer; exit\r'
            until [ \"$(wc -l < answer 2> /dev/null)\" = 2 ]; do sleep 0.02; done",
        outputs: &["answer"],
        says_the_same: false,
        ..PLAIN
    },
    Program {
        name: "pty",
        needs: &["python3", "bash"],
        run: &[
            "python3",
            "-c",
            "import pty; pty.spawn(['bash', '-c', 'for i in $(seq 100); do echo $i; sleep 0.01; done; tty | cut -c1-9; stty size'])",
        ],
        ..PLAIN
    },
];
