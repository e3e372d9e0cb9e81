# Counts, with an open file and, as a shell does, a child that sleeps. The shell asks /proc for its pid: $$ is what it was born with.
exec 4>>"$1"
count=0 chain=0
while :; do
    count=$((count + 1))
    read pid rest < /proc/self/stat
    chain=$(((chain * 31 + count * pid) % 1000003))
    echo "$pid $count $chain 0" >&4
    sleep 0.05
done
