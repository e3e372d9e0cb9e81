# Counts, with 20 MiB of memory that changes as it counts and an open file.
use strict;
use Fcntl;

my $size = 20 << 20;
my $memory = pack("C256", 0 .. 255) x ($size / 256);
for (my $page = 0; $page < $size; $page += 4096) {
    substr($memory, $page, 4) = pack("V", $page);
}
sysopen(my $out, $ARGV[0], O_WRONLY | O_APPEND | O_CREAT, 0600) or die "$ARGV[0]: $!";
my ($count, $chain) = (0, 0);
while (1) {
    $count++;
    $chain = ($chain * 31 + $count * $$) % 1000003;
    substr($memory, $count * 4099 % $size, 1) = chr($chain & 255);
    syswrite($out, "$$ $count $chain " . unpack("%32V*", $memory) . "\n");
    select(undef, undef, undef, 0.05);
}
