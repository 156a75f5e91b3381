// unix.Poll of golang.org/x/sys.
package main

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

func main() {
	fd, err := unix.Open(os.Args[1], unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		panic(err)
	}
	fmt.Println("ready")
	watched := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	text := make([]byte, 4096)
	for {
		if count, _ := unix.Poll(watched, -1); count != 1 {
			continue
		}
		over := watched[0].Revents & (unix.POLLERR | unix.POLLHUP)
		if os.Args[2] == "poll" && over == 0 {
			fmt.Println("woken")
			continue
		}
		got, err := unix.Read(fd, text)
		switch {
		case got > 0:
			fmt.Println("told", strings.TrimSpace(string(text[:got])))
		case err == unix.EAGAIN && over == 0:
			fmt.Println("empty")
		default:
			fmt.Printf("end revents %#x, %v\n", watched[0].Revents, err)
			return
		}
	}
}
