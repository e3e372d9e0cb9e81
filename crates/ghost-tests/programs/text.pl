# Hashes, regular expressions, sorting, a file under way, sleeps by select.
use strict;
use warnings;
$| = 1;
my ($seed, %seen, @list) = (42);
sub next_number { $seed = ($seed * 1103515245 + 12345) % 2147483648; return $seed >> 8 }
open(my $out, '+>', 'words') or die "words: $!";
for my $round (1 .. 200) {
    my %fresh;
    for (1 .. 300) {
        my $word = join '', map { chr(97 + next_number() % 26) } 1 .. 3 + next_number() % 4;
        $seen{$word}++;
        $fresh{$word} = 1;
        push @list, $word if $word =~ /^(.).*\1$/;
    }
    my @top = (sort { $seen{$b} <=> $seen{$a} || $a cmp $b } keys %fresh)[0 .. 4];
    print {$out} "$round @top\n";
    printf "%d %d %d %s\n", $round, scalar(keys %seen), scalar(@list), join ',', @top;
    select(undef, undef, undef, 0.003);
}
seek($out, 0, 0);
my $sum = 0;
while (<$out>) { $sum = ($sum * 31 + unpack('%32C*', $_)) % 1000000007 }
print "$sum ", scalar(@list), "\n";
