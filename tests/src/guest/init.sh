#!/bin/sh
# The first program of a test guest: brings the machine up, then serves commands until it is told to stop.
#
# Lines on the virtio-serial port, from the host: "run ID", "kill ID", "stop"; to the host: "ready", "done ID STATUS".
# The command of job ID is the file /ctl/ID.sh, its standard output and error go to /ctl/ID.out; /ctl is a 9p share.
export PATH=/usr/sbin:/usr/bin HOME=/root TERM=dumb LANG=C

mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
mkdir -p /dev/pts /dev/shm /run /tmp /mnt /ctl /share
mount -t devpts devpts /dev/pts
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
mount -t tmpfs tmpfs /run
mount -t tmpfs -o mode=1777 tmpfs /tmp
ln -sf /proc/self/fd /dev/fd
mkdir -p /run/jobs
echo /usr/sbin/modprobe >/proc/sys/kernel/modprobe
hostname guest

# The serial port is the console; the kernel says its panic there whatever the log level.
fail() {
    echo "guest init failed: $*" >/dev/console
    poweroff -f
}

modprobe -a virtio_pci virtio_console 9pnet_virtio 9p virtio_net loop || fail "a module of the test bed did not load"
mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000,cache=none ctl /ctl || fail "no control share"
mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000,cache=none share /share || fail "no test share"

# Each guest is a host of its own to the targets it connects to.
mkdir -p /etc/nvme
cp /ctl/hostid /etc/nvme/hostid || fail "no host id"
echo "nqn.2014-08.org.nvmexpress:uuid:$(cat /etc/nvme/hostid)" >/etc/nvme/hostnqn

# No route but to the virtual network itself: the guest reaches the loopback of the host (10.0.2.2) and nothing else.
ip link set lo up
ip link set eth0 up
ip addr add 10.0.2.15/24 dev eth0

port=
tries=0
while [ -z "$port" ]; do
    for name in /sys/class/virtio-ports/*/name; do
        [ -e "$name" ] && [ "$(cat "$name")" = varve.control ] && port=/dev/$(basename "$(dirname "$name")")
    done
    tries=$((tries + 1))
    [ -n "$port" ] && [ -e "$port" ] && break
    port=
    [ "$tries" -lt 200 ] || fail "no control port"
    usleep 50000
done

run_job() {
    setsid sh -c 'echo $$ >/run/jobs/'"$1"'; exec sh /ctl/'"$1"'.sh' </dev/null >"/ctl/$1.out" 2>&1 3>&-
    status=$?
    rm -f "/run/jobs/$1"
    echo "done $1 $status" >&3
}

# The process group of a job is its first process; it may not have written its number yet.
kill_job() {
    for _ in 1 2 3 4 5 6 7 8 9 10; do
        if [ -s "/run/jobs/$1" ]; then
            kill -s KILL -- "-$(cat "/run/jobs/$1")"
            return
        fi
        usleep 100000
    done
}

serve() {
    exec 3<>"$port" || fail "the control port does not open"
    echo ready >&3
    while read -r verb id <&3; do
        case $verb in
        run) run_job "$id" & ;;
        kill) kill_job "$id" >/dev/null 2>&1 & ;;
        stop) break ;;
        esac
    done
}

# Process 1 itself only waits, and by that buries every orphan.
serve </dev/null >/dev/console 2>&1 &
wait $!
sync
poweroff -f
