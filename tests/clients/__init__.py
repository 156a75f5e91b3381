"""Programs in many languages, each as its users would write it, against a real device: `make clients`.

`stacks.py` is the list, and `programs/` has a file of 15 to 40 lines for each. `packages.py` and `build.py` make them
run, `course.py` is what each goes through, and `page.py` writes docs/clients.md.

A program is started as `PROGRAM DEVICE read|poll [ARGUMENT…]`. It opens the device, waits for it in its own way, for
ever, and prints a line for each thing that happens:

    ready               the device is open
    told RECORD         it was woken, and read a record
    empty               it was woken, and there was nothing to read (EAGAIN)
    woken               it was woken; in mode `poll`, where it does not read
    end WHAT            it saw the end: what its way of waiting said, the error of the read. It exits.

Programs that block in a read know the mode `read` alone. What a tool such as cat prints are the records themselves.
"""
