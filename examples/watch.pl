#!/usr/bin/perl
# Watch /dev/mem_notify from Perl, with IO::Select (core modules only).
#
# Run:     perl watch.pl [DEVICE [COUNT]]     DEVICE: default /dev/mem_notify; COUNT: end after so many
#                                             notifications, default 0: never
# Try it:  sudo memnotify simulate --for 2
#
# select keeps the machine from going to sleep, unless memnotify-suspend.service is there (docs/reliability.md).
# Prints one line per notification: its record. Exit codes: 0 on SIGTERM, SIGINT or after COUNT notifications;
# not 0 when the device fails.
use strict;
use warnings;
use Errno qw(EAGAIN EINTR);
use Fcntl qw(O_RDONLY O_NONBLOCK);
use IO::Select;
use POSIX ();

my $device = shift // '/dev/mem_notify';
my $count  = shift // 0;
my $told   = 0;
my $buffer = '';

$| = 1;

# POSIX::sigaction, because %SIG runs a handler only after the system call: a signal that comes just before
# select would wait there with it.
for my $signal (POSIX::SIGTERM, POSIX::SIGINT) {
    POSIX::sigaction($signal, POSIX::SigAction->new(sub { POSIX::_exit(0) }));
}

sysopen(my $file, $device, O_RDONLY | O_NONBLOCK) or die "$0: cannot open $device: $!\n";
my $select = IO::Select->new($file);
print STDERR "watching $device\n";

while (1) {
    $select->can_read or next;
    my $got = sysread($file, $buffer, 4096, length $buffer);
    if (!defined $got) {
        next if $! == EAGAIN || $! == EINTR;
        die "$0: $device: $!\n";
    }
    die "$0: $device: end of file\n" if $got == 0;
    while ($buffer =~ s/^(.*)\n//) {
        print "$1\n";
        exit 0 if ++$told == $count;
    }
}
