// os.Open and bufio: a thread, blocked in read(), since the device's file looks like a regular one.
package main

import (
	"bufio"
	"fmt"
	"os"
)

func main() {
	file, err := os.Open(os.Args[1])
	if err != nil {
		panic(err)
	}
	fmt.Println("ready")
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		fmt.Println("told", lines.Text())
	}
	fmt.Println("end", lines.Err())
}
