import java.io.RandomAccessFile;
import java.security.MessageDigest;
import java.util.ArrayList;
import java.util.HexFormat;
import java.util.List;
import java.util.Random;
import java.util.TreeMap;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;

/** Threads of a pool, garbage, compiled code, a file under way. */
public class Main {
    static String digest(byte[] bytes) throws Exception {
        return HexFormat.of().formatHex(MessageDigest.getInstance("SHA-256").digest(bytes));
    }

    static String work(int round, int n) throws Exception {
        Random random = new Random(round * 100L + n);
        TreeMap<Integer, byte[]> map = new TreeMap<>();
        for (int i = 0; i < 2000; i++) {
            byte[] b = new byte[32];
            random.nextBytes(b);
            map.put(random.nextInt(500), b);
        }
        byte[] all = new byte[32];
        for (byte[] b : map.values()) {
            for (int i = 0; i < 32; i++) {
                all[i] = (byte) (all[i] * 31 + b[i]);
            }
        }
        return digest(all);
    }

    public static void main(String[] args) throws Exception {
        ExecutorService pool = Executors.newFixedThreadPool(3);
        RandomAccessFile log = new RandomAccessFile("log", "rw");
        for (int round = 0; round < 200; round++) {
            List<Future<String>> list = new ArrayList<>();
            for (int n = 0; n < 4; n++) {
                int r = round;
                int m = n;
                list.add(pool.submit(() -> work(r, m)));
            }
            StringBuilder line = new StringBuilder(round + "");
            for (Future<String> f : list) {
                line.append(' ').append(f.get(), 0, 16);
            }
            System.out.println(line);
            log.writeBytes(line + "\n");
            Thread.sleep(3);
        }
        pool.shutdown();
        byte[] all = new byte[(int) log.length()];
        log.seek(0);
        log.readFully(all);
        System.out.println(digest(all));
    }
}
