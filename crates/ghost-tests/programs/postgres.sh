# A database server with its helpers and a client at work, all in one tree.
postgres -D "$PWD/data" -k "$PWD/data" -c listen_addresses= -c fsync=off -c shared_buffers=8MB -c max_connections=10 \
    -c dynamic_shared_memory_type=mmap > server.log 2>&1 &
server=$!
client() { psql -X -q -A -t -h "$PWD/data" -U postgres -d postgres "$@"; }
tries=0
until client -c 'select 1' > /dev/null 2>&1; do
    tries=$((tries + 1))
    [ $tries -lt 400 ] || exit 1
    sleep 0.05
done
client -f postgres.sql || exit 1
kill -INT $server
wait $server
