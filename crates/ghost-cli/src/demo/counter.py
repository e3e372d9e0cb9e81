# Counts, with 20 MiB of memory that changes as it counts, an open file and four threads.
import os, sys, threading, time, zlib

SIZE = 20 << 20
memory = bytearray(bytes(range(256)) * (SIZE // 256))
for page in range(0, SIZE, 4096):
    memory[page:page + 4] = page.to_bytes(4, "little")

def helper():
    while True:
        time.sleep(0.01)

for _ in range(3):
    threading.Thread(target=helper, daemon=True).start()
out = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
count = chain = 0
while True:
    count += 1
    pid = os.getpid()
    chain = (chain * 31 + count * pid) % 1000003
    memory[count * 4099 % SIZE] = chain & 255
    os.write(out, f"{pid} {count} {chain} {zlib.adler32(memory)}\n".encode())
    time.sleep(0.05)
