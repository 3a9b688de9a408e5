# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck shell=bash
#
# For NFS cases: what is run inside a guest begins with this file. NFS servers of the guest's own kernel, each in network, mount and UTS
# namespaces of its own, so that one guest has several, and each can be cut off, restarted and emptied by itself.
#
#   server NAME N EXPORT...     a server at 10.99.N.1 and fd99:N::1 (the node is .2 and ::2) with lines of /etc/exports
#   server_stop NAME            ends its nfsd and mountd, as "systemctl stop nfs-server" does; its machine still answers
#   server_start NAME           starts it again, forgetting its clients
#   server_exports NAME EXPORT...   other exports, at once
#   server_run NAME COMMAND...  in its namespaces
#   link_cut NAME, link_heal NAME   every packet is lost, unseen by both sides
#   target UID NAME             makes the directory of a pod's volume and prints it
#   nfs_mount TARGET OPTION...  berthctl mount, with options such as path=/x; MOUNT_FLAGS: further arguments
#   timed LIMIT_MSEC COMMAND...     fails unless it ends with success by then; prints how long it took
#   bounded LIMIT_MSEC COMMAND...   the same, whatever its status is
#   refused ERROR COMMAND...    fails unless it fails with io.berth.Error.ERROR, or with one whose name begins so; "refused ERROR bounded
#                               LIMIT_MSEC COMMAND..." also if that takes too long
#   nothing_left                fails if a volume, a mount, a record or a lock is left
#   within SECONDS COMMAND...   repeats it until it succeeds; it costs nothing to give it time for a busy machine
#   waits_for_server PID        whether the process is in the midst of a call of its server
#   fail TEXT
#
# Limits are of what berth waits for; to that comes room for a slow guest, as slow as a call of berthctl shows it to be at the time.

set -euo pipefail
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
lab=/var/lab-nfs
shopt -s inherit_errexit
# Once in a guest. For each superblock, three a mount, udev forks a worker: a seventh of all processor time, for nothing that NFS needs. And thrice at each
# mount of NFSv4.1 and later the kernel starts modprobe for Kerberos, though it has that module: another tenth; so it has all that it needs at once.
if [[ -e /sys/fs/cgroup/system.slice/systemd-udevd.service ]]; then
        systemctl stop systemd-udevd-control.socket systemd-udevd-kernel.socket systemd-udevd
        modprobe -q -a rpcsec_gss_krb5 nfsv3 nfsv4 nf_tables sch_netem
        sysctl -qw kernel.modprobe=
fi

# Status 99, wherever it happens: of a failure of the test itself, which no "refused" takes for one of what it looks at.
fail() {
        echo "FAILED: $*" >&2
        berthctl list >&2 || :
        exit 99
}
trap 'echo "FAILED: line $LINENO: $BASH_COMMAND" >&2' ERR

within() {
        local end=$((SECONDS + $1)) seconds=$1
        shift
        until "$@"; do
                ((SECONDS < end)) || fail "not within $seconds s: $*"
                sleep 0.1
        done
}

now_msec() {
        echo $((${EPOCHREALTIME/./} / 1000))
}

bounded() {
        local limit=$1 start status=0 took room
        shift
        start=$(now_msec)
        "$@" || status=$?
        took=$(($(now_msec) - start))
        echo "# $took ms, status $status: ${*:1:5}"
        start=$(now_msec)
        berthctl version >/dev/null 2>&1 || :
        room=$((2000 + 30 * ($(now_msec) - start)))
        ((took <= limit + room)) || fail "$took ms, allowed are $limit and $room on this machine: $*"
        return "$status"
}

timed() {
        bounded "$@" || fail "status $?: ${*:2}"
}

refused() {
        local error=$1 output status=0
        shift
        output=$("$@" 2>&1) || status=$?
        if ((status == 99)); then
                echo "$output" >&2
                exit 99
        fi
        ((status > 0)) || fail "was not refused: $*"
        [[ $output == *"io.berth.Error.$error"* ]] || fail "not $error: $* printed: $output"
        echo "# refused as it should be: $output"
}

# What a server runs, in its namespaces. Its own /run keeps rpcbind's socket from the node's.
server_main() {
        local name=$1 state=/var/lib/nfs
        mount --make-rprivate /
        hostname "$name"
        mount --bind "$lab/$name/state" $state
        mount --bind "$lab/$name/exports" /etc/exports
        mkdir -p /etc/exports.d
        mount -t tmpfs tmpfs /etc/exports.d
        mount -t tmpfs tmpfs /run
        mkdir -p /run/rpcbind
        mount -t nfsd nfsd /proc/fs/nfsd
        mount -t rpc_pipefs rpc_pipefs $state/rpc_pipefs
        touch "$lab/$name/ready"
        exec sleep infinity
}

server_run() {
        local name=$1
        shift
        nsenter --target "$(<"$lab/$name/pid")" --net --mount --uts -- "$@"
}

server_start() {
        local name=$1
        server_run "$name" bash -euc '
                rpc.mountd
                exportfs -ra
                rpc.nfsd --grace-time 10 --lease-time 10 -V 3 -V 4.0 -V 4.1 -V 4.2 4
                for i in 1 2 3 4 5 6 7 8 9 10; do echo Y >/proc/fs/nfsd/v4_end_grace && break; sleep 0.1; done 2>/dev/null'
}

server_mountd() { # its PID; none: status 1
        local pid
        for pid in $(ip netns pids "$1"); do
                [[ $(cat "/proc/$pid/comm" 2>/dev/null) != rpc.mountd ]] || echo "$pid"
        done | grep .
}

no_mountd() {
        ! server_mountd "$1" >/dev/null
}

server_stop() {
        local pid
        server_run "$1" rpc.nfsd 0
        for pid in $(server_mountd "$1" || :); do
                kill "$pid" 2>/dev/null || :
        done
        # as long as it lives it can take its successor's registration away
        within 120 no_mountd "$1"
}

server_exports() {
        local name=$1
        shift
        printf '%s\n' "$@" >"$lab/$name/exports"
        server_run "$name" exportfs -ra
        server_run "$name" exportfs -f
}

server() {
        local name=$1 n=$2
        shift 2
        modprobe -q -a nfsd veth
        # what nfsdcld keeps, and syncs at each client's coming and going: the guest's disk has other work
        mkdir -p "$lab"
        mountpoint -q "$lab" || mount -t tmpfs tmpfs "$lab"
        mkdir -p "$lab/$name"/state/{sm,sm.bak,rpc_pipefs,v4recovery,nfsdcld}
        touch "$lab/$name"/state/{etab,rmtab,state}
        printf '%s\n' "$@" >"$lab/$name/exports"
        ip netns add "$name"
        ip link add "v-$name" type veth peer name eth0 netns "$name"
        ip addr add "10.99.$n.2/24" dev "v-$name"
        ip addr add "fd99:$n::2/64" dev "v-$name" nodad
        ip link set "v-$name" up
        ip -n "$name" addr add "10.99.$n.1/24" dev eth0
        ip -n "$name" addr add "fd99:$n::1/64" dev eth0 nodad
        ip -n "$name" link set lo up
        ip -n "$name" link set eth0 up
        ip -n "$name" route add default via "10.99.$n.2"
        export lab
        export -f server_main
        ip netns exec "$name" setsid unshare --mount --uts --propagation private bash -c "server_main $name" </dev/null >"$lab/$name/log" 2>&1 &
        echo $! >"$lab/$name/pid"
        within 120 test -e "$lab/$name/ready"
        server_run "$name" rpcbind -w
        # lockd asks it before it grants a lock of NFSv3, and waits half a minute if it is not there
        server_run "$name" rpc.statd --no-notify
        server_run "$name" nfsdcld --pipefsdir=/var/lib/nfs/rpc_pipefs --storagedir=/var/lib/nfs/nfsdcld >/dev/null 2>&1 || :
        server_start "$name"
}

link_cut() {
        ip netns exec "$1" nft 'add table inet cut; add chain inet cut in { type filter hook input priority 0; policy drop; };
                add chain inet cut out { type filter hook output priority 0; policy drop; }'
}

link_heal() {
        ip netns exec "$1" nft delete table inet cut
}

target() {
        local dir
        dir=/var/lib/kubelet/pods/00000000-0000-0000-0000-$(printf %012d "$1")/volumes/berth~nfs/$2
        [[ -d $dir ]] || mkdir -p "$dir"
        echo "$dir"
}

nfs_mount() {
        local target=$1 o arguments=()
        shift
        for o; do arguments+=(--option "$o"); done
        # shellcheck disable=SC2086 # words
        berthctl mount --target "$target" --driver nfs ${MOUNT_FLAGS-} "${arguments[@]}"
}

is_mounted() {
        grep -q " $1 " /proc/self/mountinfo
}

is_not_mounted() {
        ! is_mounted "$1"
}

no_volumes() {
        [[ $(berthctl list | wc -l) == 1 ]]
}

# Fails if grep finds something, or cannot look.
found_none() { # what, grep's arguments
        local what=$1 status=0
        shift
        grep "$@" >&2 || status=$?
        ((status == 1)) || fail "$what (status of grep: $status)"
}

nothing_left() {
        local what left
        within 120 no_volumes
        for what in volumes staging locks; do
                left=$(ls -A "/run/berth/$what") || fail "/run/berth/$what cannot be read"
                [[ -z $left ]] || fail "left in $what: $left"
        done
        found_none mounts -E ' (/var/lib/kubelet|/run/berth/staging)' /proc/self/mountinfo
        # where no NFS was mounted there is no such file
        [[ ! -e /proc/fs/nfsfs/volumes ]] || found_none superblocks '^v' /proc/fs/nfsfs/volumes
}

waits_for_server() {
        local where
        where=$(cat "/proc/$1/wchan")
        [[ $where == rpc_* || $where == nfs* || $where == folio_wait* ]]
}
