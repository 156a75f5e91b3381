// FileInputStream, read in a thread; with a third argument a FileChannel.
import java.io.BufferedReader;
import java.io.FileInputStream;
import java.io.IOException;
import java.io.InputStreamReader;
import java.nio.ByteBuffer;
import java.nio.channels.FileChannel;
import java.nio.file.Path;

public class Stream {
    public static void main(String[] arguments) throws Exception {
        Thread reader = new Thread(() -> watch(arguments));
        reader.start();
        reader.join();
    }

    static void watch(String[] arguments) {
        try {
            if (arguments.length > 2)
                channel(arguments[0]);
            else
                stream(arguments[0]);
            System.out.println("end end of file");
        } catch (IOException error) {
            System.out.println("end " + error);
        }
    }

    static void stream(String path) throws IOException {
        var lines = new BufferedReader(new InputStreamReader(new FileInputStream(path)));
        System.out.println("ready");
        for (String line; (line = lines.readLine()) != null;)
            System.out.println("told " + line);
    }

    static void channel(String path) throws IOException {
        FileChannel channel = FileChannel.open(Path.of(path));
        System.out.println("ready");
        ByteBuffer text = ByteBuffer.allocate(4096);
        for (int got; (got = channel.read(text)) > 0; text.clear())
            System.out.print("told " + new String(text.array(), 0, got));
    }
}
