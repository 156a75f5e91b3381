// epoll, level-triggered, or edge-triggered where a third argument says so.
package main

import (
	"fmt"
	"os"
	"strings"
	"syscall"
)

func main() {
	fd, err := syscall.Open(os.Args[1], syscall.O_RDONLY|syscall.O_NONBLOCK|syscall.O_CLOEXEC, 0)
	if err != nil {
		panic(err)
	}
	fmt.Println("ready")
	epoll, _ := syscall.EpollCreate1(0)
	wanted := syscall.EpollEvent{Events: syscall.EPOLLIN, Fd: int32(fd)}
	if len(os.Args) > 3 {
		wanted.Events |= 1 << 31
	}
	if err := syscall.EpollCtl(epoll, syscall.EPOLL_CTL_ADD, fd, &wanted); err != nil {
		panic(err)
	}
	events := make([]syscall.EpollEvent, 4)
	text := make([]byte, 4096)
	for {
		if count, _ := syscall.EpollWait(epoll, events, -1); count != 1 {
			continue
		}
		over := events[0].Events & (syscall.EPOLLERR | syscall.EPOLLHUP)
		if os.Args[2] == "poll" && over == 0 {
			fmt.Println("woken")
			continue
		}
		got, err := syscall.Read(fd, text)
		switch {
		case got > 0:
			fmt.Println("told", strings.TrimSpace(string(text[:got])))
		case err == syscall.EAGAIN && over == 0:
			fmt.Println("empty")
		default:
			fmt.Printf("end events %#x, %v\n", events[0].Events, err)
			return
		}
	}
}
