# Threads, an open file, a deleted file and the state of the random generator; every line depends on all before it.
import hashlib, os, queue, random, threading, time, zlib

random.seed(20050704)
log = open("log", "w+b")
gone = open("gone", "w+b")
os.unlink("gone")
asked = [queue.Queue() for _ in range(4)]
answered = queue.Queue()


def worker(n):
    state = hashlib.sha256(b"%d" % n)
    while True:
        piece = asked[n].get()
        if piece is None:
            return
        state.update(piece)
        answered.put((n, state.hexdigest()))


threads = [threading.Thread(target=worker, args=(n,)) for n in range(4)]
for t in threads:
    t.start()
sums = {}
for i in range(250):
    piece = random.randbytes(random.randrange(1, 4000))
    for q in asked:
        q.put(piece)
    for _ in asked:
        n, digest = answered.get()
        sums[n] = digest
    gone.write(zlib.compress(piece))
    log.write(b"%d %s\n" % (i, sums[i % 4].encode()))
    print(i, sums[i % 4], gone.tell(), random.random(), flush=True)
    time.sleep(0.004)
for q in asked:
    q.put(None)
for t in threads:
    t.join()
for f in (log, gone):
    f.seek(0)
    print(hashlib.sha256(f.read()).hexdigest())
print(sorted(sums.items()))
