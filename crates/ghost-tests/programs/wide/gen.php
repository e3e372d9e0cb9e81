<?php
// Generators, sorting, a stream under way, regular expressions, a child by proc_open.
function numbers() { $x = 1; while (true) { $x = ($x * 1103515245 + 12345) % 2147483648; yield $x >> 8; } }
$n = numbers(); $seen = []; $tmp = tmpfile(); $log = fopen('log', 'w+');
$p = proc_open(['sort', '-n'], [['pipe', 'r'], ['pipe', 'w']], $pipes);
for ($round = 0; $round < 200; $round++) {
    for ($i = 0; $i < 500; $i++) { $v = $n->current(); $n->next(); $k = substr(md5((string)$v), 0, 3); $seen[$k] = ($seen[$k] ?? 0) + $v % 5; }
    fwrite($pipes[0], $v . "\n"); fwrite($tmp, "$v\n");
    arsort($seen); $top = array_key_first($seen); ksort($seen);
    $line = sprintf("%d %d %d\n", $round, count($seen), array_sum($seen)); echo $line; fwrite($log, $line);
    usleep(2000);
}
fclose($pipes[0]); echo hash('sha256', stream_get_contents($pipes[1])), "\n"; echo proc_close($p), "\n";
rewind($tmp); rewind($log); echo hash('sha256', stream_get_contents($tmp) . stream_get_contents($log)), "\n";
