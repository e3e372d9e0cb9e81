# multiprocessing: a pool, a shared array, a lock, a manager's queue; each with its own machinery below.
import hashlib, multiprocessing as mp, time


def work(n):
    h = b"%d" % n
    for _ in range(3000):
        h = hashlib.sha256(h).digest()
    with total.get_lock():
        total.value += h[0]
    return h.hex()


def start(t):
    global total
    total = t


def feed(queue, event):
    for i in range(100):
        queue.put(i * i)
        time.sleep(0.003)
    event.set()


if __name__ == "__main__":
    total = mp.Value("l", 0)
    queue, event = mp.Queue(), mp.Event()
    feeder = mp.Process(target=feed, args=(queue, event))
    feeder.start()
    with mp.Pool(3, start, (total,)) as pool:
        for n, digest in enumerate(pool.imap(work, range(300))):
            if n % 20 == 0:
                print(n, digest, flush=True)
    print(sum(queue.get() for _ in range(100)), event.wait(10), total.value)
    feeder.join()
    print(feeder.exitcode)
