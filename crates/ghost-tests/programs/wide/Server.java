// An NIO server: a selector, an accept loop, a counter.
import java.net.*;
import java.nio.*;
import java.nio.channels.*;
import java.nio.file.*;
import java.util.*;

public class Server {
    public static void main(String[] a) throws Exception {
        Selector s = Selector.open();
        ServerSocketChannel l = ServerSocketChannel.open();
        l.bind(new InetSocketAddress("127.0.0.1", 8123));
        l.configureBlocking(false);
        l.register(s, SelectionKey.OP_ACCEPT);
        long sum = 0;
        while (true) {
            s.select(50);
            for (Iterator<SelectionKey> i = s.selectedKeys().iterator(); i.hasNext(); ) {
                SelectionKey k = i.next();
                i.remove();
                if (k.isAcceptable()) {
                    SocketChannel c = l.accept();
                    c.configureBlocking(false);
                    c.register(s, SelectionKey.OP_READ);
                } else {
                    SocketChannel c = (SocketChannel) k.channel();
                    ByteBuffer b = ByteBuffer.allocate(4096);
                    int n = c.read(b);
                    if (n < 0) { c.close(); continue; }
                    String line = new String(b.array(), 0, n).trim();
                    if (line.equals("end")) { c.write(ByteBuffer.wrap("bye\n".getBytes())); c.close(); return; }
                    for (char x : line.toCharArray()) sum = (sum * 31 + x) % 1000000007L;
                    c.write(ByteBuffer.wrap((sum + "\n").getBytes()));
                    c.close();
                }
            }
        }
    }
}
