// os.NewFile of a non-blocking descriptor: the runtime's poller.
package main

import (
	"bufio"
	"fmt"
	"os"
	"syscall"
)

func main() {
	fd, err := syscall.Open(os.Args[1], syscall.O_RDONLY|syscall.O_NONBLOCK|syscall.O_CLOEXEC, 0)
	if err != nil {
		panic(err)
	}
	fmt.Println("ready")
	lines := bufio.NewScanner(os.NewFile(uintptr(fd), os.Args[1]))
	for lines.Scan() {
		fmt.Println("told", lines.Text())
	}
	fmt.Println("end", lines.Err())
}
