# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck shell=bash disable=SC2016 # expanded in the node
#
# What the cases of Ceph RBD share: nodes with berthd, volumes of the lab's Ceph mounted as the kubelet does it.

driver=/usr/libexec/kubernetes/kubelet-plugins/volume/exec/berth~rbd/rbd
# Of three monitors two are dead: nobody has these addresses.
monitors=10.90.0.254:3300,10.90.0.250:6789,10.90.0.251:3300

rbd_up() {
        # the kernel client asks after its watches every 5 s by default, which is the whole of the lab's usual time
        CEPH_WATCH_TIMEOUT=10 ceph_up
        key=$(ceph_get kube_key)
}

admin() { # rbd or ceph, and its arguments
        local program=$1
        shift
        timeout 60 "$program" -c "$(ceph_get conf)" "$@"
}

# name, size, features (default: those that berth's own examples have)
rbd_image() {
        admin rbd create --size "$2" --image-feature "${3-layering,exclusive-lock,object-map,fast-diff,deep-flatten}" "kube/$1"
}

# udev looks into each device as on any node. But that Ceph's script names a link for it, at each of its events, takes longer than the rest, for nothing that
# is looked at.
rbd_no_links() { # node
        on "$1" 'ln -s /dev/null /etc/udev/rules.d/50-rbd.rules'
}

rbd_node() { # name, address, lines of configuration
        local name=$1 address=$2
        shift 2
        node "$name" --ip "$address/24"
        rbd_no_links "$name"
        node_start_berthd "$name" '[RBD]' 'MapOptions=osdkeepalive=2' "$@"
}

# A node whose berthd has fault points (agent/base/fault.h): /run/fault names the one that is next, /run/fault.trace has those that were reached.
rbd_faulty_node() { # as rbd_node
        local name=$1 address=$2
        shift 2
        node "$name" --ip "$address/24"
        rbd_no_links "$name"
        node_put_suites "$name"
        # no daemon-reload, two seconds of a processor: systemd reads the unit when it is started
        on -i "$name" 'cat >/etc/systemd/system/berthd.service.d/faulty.conf' <<'UNIT'
[Service]
ExecStart=
ExecStart=/var/lab-suites/tests/faulty/berthd --mounter-dir /var/lab-suites/tests/faulty
Environment=BERTH_FAULT=@/run/fault BERTH_FAULT_TRACE=/run/fault.trace
UNIT
        node_start_berthd "$name" '[RBD]' 'MapOptions=osdkeepalive=2' "$@"
}

# A request in the background. What it printed, and the seconds it took, are in files of its name.
declare -A rbd_asked=()
rbd_ask() { # name, command
        local name=$1 start=$SECONDS
        shift
        {
                "$@" >"${case_dir:?}/$name.answer" 2>&1 || :
                echo $((SECONDS - start)) >"$case_dir/$name.seconds"
        } &
        rbd_asked[$name]=$!
}

# Has it stop at a fault point, as the only one of the node that is not there yet; node, point, how many mounters stand still then, request.
rbd_ask_until() {
        local node=$1 point=$2 n=$3
        shift 3
        on "$node" "rm -f /run/fault.count; echo $point=stop >/run/fault"
        rbd_ask "$@"
        # of berthd's processes: pgrep looks at all of the guest's, for a fifth of a second each time
        check "request '$1' reaches $point" wait_for 60 on "$node" "n=0
                while read -r pid; do
                        read -r line </proc/\$pid/stat && [[ \$line == *'(mounter-rbd) T '* ]] && n=\$((n + 1))
                done </sys/fs/cgroup/system.slice/berthd.service/cgroup.procs 2>/dev/null
                ((n == $n))"
}

rbd_go_on() { # node
        on "$1" 'pkill -CONT -x mounter-rbd'
}

# It is answered, whatever with, within its deadline and what this machine adds; the answer in $answer.
rbd_answered() { # name, seconds
        local seconds
        wait "${rbd_asked[$1]}"
        seconds=$(<"${case_dir:?}/$1.seconds") answer=$(<"$case_dir/$1.answer")
        say "$1: answered after $seconds s: ${answer:0:300}"
        ((seconds <= ${2-130})) || fail "$1: answered only after $seconds s"
}

rbd_target() { # pod
        echo "/var/lib/kubelet/pods/$1/volumes/berth~rbd/data"
}

# node, pod, image, further options as JSON (',"namespace":"a"'): the driver's answer
rbd_mount() {
        local target
        target=$(rbd_target "$2")
        on -t 150 "$1" "mkdir -p $target && $driver mount $target '{\"kubernetes.io/fsType\":\"${fs_type-ext4}\",\
\"kubernetes.io/readwrite\":\"${access-rw}\",\"kubernetes.io/pod.name\":\"$2\",\"kubernetes.io/pod.namespace\":\"default\",\
\"kubernetes.io/pod.uid\":\"$2\",\"kubernetes.io/pvOrVolumeName\":\"data\",${key:+\"kubernetes.io/secret/key\":\"$(base64 -w0 <<<"$key")\",}\
\"monitors\":\"$monitors\",\"pool\":\"kube\",\"user\":\"${user-kube}\",\"image\":\"$3\"${4-}}'"
}

rbd_mounts() { # the same, and it has to succeed
        contains "mount of $3 on $1" '"Success"' "$(rbd_mount "$@")"
}

rbd_unmounts() { # node, pod
        contains "unmount of $2 on $1" '"Success"' "$(on -t 150 "$1" "$driver unmount $(rbd_target "$2")")"
}

# For lines in the guest: what cannot be looked at is not empty. A directory that does not exist is.
guest_looks='
        nothing_in() { local seen; [ ! -e "$1" ] || { seen=$(ls -A "$1") && [ -z "$seen" ]; }; }
        nothing_of() { "$@"; [ $? = 1 ]; }
        nowhere() { grep -q "$@"; [ $? = 1 ]; }
'

# A process that holds something on the node, running when this returns: its PID. Node, a line for bash that ends in "sleep 1000" and what is
# redirected.
holder() {
        local pid
        pid=$(on "$1" "$2 >/dev/null 2>&1 & echo \$!")
        # before that it is still the shell, which has not opened anything
        wait_for 120 on "$1" "[ \"\$(cat /proc/$pid/comm)\" = sleep ]" || fail "no holder: $2"
        echo "$pid"
}

# Nothing of it is left on the node: no map, no mount, no record, no lock.
rbd_clean() { # node
        on "$1" "$guest_looks"'
                nothing_in /sys/bus/rbd/devices && nowhere rbd /proc/mounts && nothing_in /run/berth/volumes && nothing_in /run/berth/locks'
}

# The same of rbd-nbd: no device, no process, no unit, no file with a key. Asked again and again: what is dear to ask comes last.
nbd_clean() { # node
        on "$1" "$guest_looks"'
                for pid in /sys/block/nbd*/pid; do [ ! -e $pid ] || exit 1; done
                nothing_in /run/berth/nbd && nothing_in /run/berth/volumes && nothing_in /run/berth/locks && nowhere /dev/nbd /proc/mounts &&
                        nothing_of pgrep -x rbd-nbd && units=$(systemctl list-units --all --no-legend "berth-nbd-*") && [ -z "$units" ]'
}

nbd_device() { # node, pod: "nbd0"
        on "$1" "findmnt -no SOURCE $(rbd_target "$2") | sed 's,/dev/,,'"
}

# A suite of tests/integration over the driver rbd: node, seconds, its name, which of its tests, assignments for the environment.
rbd_suite() {
        local output
        output=$(mktemp "${case_dir:?}/$3.XXXX.output")
        on "$1" test -d /var/lab-suites || node_put_suites "$1"
        on -t "$2" "$1" "cd / && env LD_LIBRARY_PATH=/var/lab-suites/lib BERTH_TEST_DRIVER=rbd BERTH_TEST_RBD_MONITOR=10.90.0.254:3300 \
BERTH_TEST_RBD_USER=kube BERTH_TEST_RBD_KEY='${key:?}' $5 /var/lab-suites/tests/integration/integration-$3 --filter '$4' --verbose -j1" >"$output" 2>&1 || {
                tail -n 200 "$output"
                fail "the suite $3 in the guest: $(suite_reason "$output")"
        }
        tail -n 40 "$output"
        # a test that skips itself, or a filter that fits nothing, is none
        contains "tests were run" 'Passing: 1 ' "$(sed 's/\x1b\[[0-9;]*m//g' "$output")"
        check "nothing is left" on "$1" "$guest_looks"'
                nothing_in /sys/bus/rbd/devices && nowhere " ceph " /proc/keys && nowhere rbd /proc/mounts'
}

# As the cluster tells it.
rbd_nobody_watches() {
        local name names
        names=$(admin rbd ls kube)
        for name in $names; do
                contains "watchers of $name" none "$(admin rbd status "kube/$name")"
        done
}
