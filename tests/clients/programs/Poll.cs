// Mono: Syscall.poll; with a third argument a FileStream, read in a thread.
using System;
using System.IO;
using System.Runtime.InteropServices;
using Mono.Unix.Native;

static class Program
{
    static void Main(string[] arguments)
    {
        if (arguments.Length > 2)
            Lines(arguments[0]);
        else
            Watch(Syscall.open(arguments[0], OpenFlags.O_RDONLY | OpenFlags.O_NONBLOCK), arguments[1]);
    }

    static void Lines(string path)
    {
        try
        {
            using (var reader = new StreamReader(new FileStream(path, FileMode.Open, FileAccess.Read, FileShare.ReadWrite, 1)))
            {
                Console.WriteLine("ready");
                for (string line; (line = reader.ReadLine()) != null;)
                    Console.WriteLine("told " + line);
                Console.WriteLine("end end of file");
            }
        }
        catch (IOException error)
        {
            Console.WriteLine("end " + error.Message);
        }
    }

    static void Watch(int fd, string mode)
    {
        Console.WriteLine("ready");
        var watched = new[] { new Pollfd { fd = fd, events = PollEvents.POLLIN } };
        IntPtr text = Marshal.AllocHGlobal(4096);
        while (Syscall.poll(watched, -1) > 0)
        {
            var over = watched[0].revents & ~PollEvents.POLLIN;
            if (mode == "poll" && over == 0)
            {
                Console.WriteLine("woken");
                continue;
            }
            long got = Syscall.read(fd, text, 4096);
            if (got > 0)
                Console.Write("told " + Marshal.PtrToStringAnsi(text, (int)got));
            else if (over == 0 && Stdlib.GetLastError() == Errno.EAGAIN)
                Console.WriteLine("empty");
            else
            {
                Console.WriteLine("end " + watched[0].revents + " " + Stdlib.GetLastError());
                return;
            }
        }
    }
}
