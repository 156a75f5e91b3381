// poll(2) by JNA: Java's own selectors take sockets only.
import com.sun.jna.Library;
import com.sun.jna.Native;
import com.sun.jna.Structure;
import com.sun.jna.Structure.FieldOrder;

public class JnaPoll {
    @FieldOrder({"fd", "events", "revents"})
    public static class PollFd extends Structure {
        public int fd;
        public short events;
        public short revents;
    }

    public interface C extends Library {
        C LIBRARY = Native.load("c", C.class);
        int open(String path, int flags);
        int poll(PollFd watched, long count, int timeout);
        long read(int fd, byte[] text, long size);
    }

    public static void main(String[] arguments) {
        PollFd device = new PollFd();
        device.fd = C.LIBRARY.open(arguments[0], 04000);
        device.events = 1;
        System.out.println("ready");
        byte[] text = new byte[4096];
        while (C.LIBRARY.poll(device, 1, -1) > 0) {
            boolean over = (device.revents & ~1) != 0;
            if (arguments[1].equals("poll") && !over) {
                System.out.println("woken");
                continue;
            }
            long got = C.LIBRARY.read(device.fd, text, text.length);
            if (got > 0) {
                System.out.print("told " + new String(text, 0, (int) got));
            } else if (over || Native.getLastError() != 11) {
                System.out.printf("end revents %#x, errno %d%n", device.revents, Native.getLastError());
                return;
            } else {
                System.out.println("empty");
            }
        }
    }
}
