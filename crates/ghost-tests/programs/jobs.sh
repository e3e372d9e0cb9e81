# A coprocess, here documents, process substitution, traps, background children waited for.
coproc bc -l
trap 'echo usr1' USR1
x=7
for i in $(seq 60); do
    echo "scale=20; $x * 1.0001 + s($i)" >&"${COPROC[1]}"
    read -r x <&"${COPROC[0]}"
    sleep 0.01 & last=$!
    n=$(cat <<EOF | tr a-z A-Z | wc -c
line $i $x
EOF
)
    wait $last
    [ $((i % 10)) = 0 ] && kill -USR1 $$
    echo "$i $x $n"
done
comm -12 <(seq 1 20000 | sort) <(seq 5000 30000 | sort) | cksum
exec {COPROC[1]}>&-
wait
