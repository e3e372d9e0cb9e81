# asyncio: subprocesses, unix and TCP sockets inside of one process, timers, queues.
import asyncio, hashlib, os, sys


async def serve(reader, writer):
    while line := await reader.readline():
        writer.write(hashlib.sha256(line).hexdigest().encode() + b"\n")
        await writer.drain()
    writer.close()


async def ask(n, out):
    reader, writer = await asyncio.open_unix_connection("sock")
    last = b"%d" % n
    for i in range(120):
        writer.write(last + b" %d\n" % i)
        await writer.drain()
        last = (await reader.readline()).strip()
        await asyncio.sleep(0.005)
    writer.close()
    await out.put((n, last.decode()))


async def main():
    server = await asyncio.start_unix_server(serve, "sock")
    out = asyncio.Queue()
    child = await asyncio.create_subprocess_exec("sort", "-n", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE)
    tasks = [asyncio.create_task(ask(n, out)) for n in range(6)]
    for t in tasks:
        await t
    for _ in tasks:
        n, digest = await out.get()
        child.stdin.write(f"{n} {digest}\n".encode())
    child.stdin.close()
    print((await child.stdout.read()).decode(), end="")
    print(await child.wait())
    server.close()
    os.unlink("sock")


asyncio.run(main())
