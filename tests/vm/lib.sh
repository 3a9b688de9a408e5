# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck shell=bash disable=SC2154 # machine.sh's
#
# What cases of tests/vm/cases are written with. tests/vm/run starts a case as the first process of PID, network and mount
# namespaces of its own: whatever ends the case ends its guests, taps and bridges with it, and names need to be
# unique in the case only.
#
#   node NAME [--ip ADDRESS/LENGTH] [--bridge NAME] [--cold] [--memory MiB] [--cpus N] [--bare]
#                                   starts a guest from the saved state (--cold: boots it) with the project in it (--bare: without)
#   on [-i] [-t SECONDS] NAME COMMAND       a line for the guest's bash, or a program and its arguments as words; its output,
#                                   its status; 124: took longer than 120 s (-t), 125: the guest is gone. -i passes stdin on
#   node_reboot NAME                systemctl reboot, and waits until the guest is up again
#   node_power_cut NAME [--off]     ends the virtual machine and boots the node again from its disk (--off: does not boot)
#   node_boot NAME                  boots a node that is off, and waits until it is up
#   node_wait_off NAME SECONDS      waits until the guest has shut down by itself
#   node_link NAME up|down          the cable, as the guest sees it
#   node_cut NAME, node_heal NAME   the network loses every packet, unseen by the guest
#   node_freeze NAME, node_thaw NAME        the machine stands still, its clock with it
#   node_install_debs NAME FILE...  puts packages in with apt
#   node_put_suites NAME            suites of tests/integration that run in guests: /var/lab-suites/tests/integration, with LD_LIBRARY_PATH
#                                   /var/lab-suites/lib
#   suite_reason FILE               of a suite's output the failed assertion, the seed and the last case of the kill matrix, in one line
#   node_start_berthd NAME [CONFIGURATION LINE]...  berthd.service, and waits until it answers
#   bridge NAME [ADDRESS/LENGTH]    makes a bridge; with an address the host's side can be reached from nodes on it
#   ceph_up                         a real Ceph on the host's side (tests/lab/ceph), for nodes on the bridge lab0 at 10.90.0.254
#   ceph_get NAME                   what its ready file tells: mon_v1, fsid, kube_key, conf, ...
#   ceph_signal STOP|CONT mon|osd   an outage, and its end
#   journal_of NAME ARGUMENT...     journalctl's output, with all that was logged until now
#   room NAME                       seconds to add to a limit for a guest that is slow, as slow as a call of berthctl shows it to be
#   wait_for SECONDS COMMAND...     repeats it until it succeeds; it costs nothing to give it time for a busy machine
#   check WHAT COMMAND...           fails the case, saying WHAT, unless it succeeds
#   refused WHAT [--with TEXT | --status N] COMMAND...      fails the case unless it fails with status 1 (with any, and prints TEXT; with N).
#                                   What could not be run, was ended for its time, or found no guest was not refused
#   equal WHAT EXPECTED SEEN        fails the case unless both are the same
#   differ WHAT ONE OTHER           fails the case unless they are not
#   contains WHAT TEXT SEEN         fails the case unless SEEN contains TEXT
#   lacks WHAT TEXT SEEN            fails the case unless there is something in SEEN, and no TEXT
#   absent WHAT NAME LINE GREP_ARGUMENT...  fails the case unless LINE prints something in the guest, and grep finds none of it
#   absent_in WHAT NAME GREP_ARGUMENT...    fails the case unless grep finds nothing in files of the guest, which have to be there
#   not_mounted WHAT NAME TARGET    fails the case if there is a mount at it
#   core_expected PATTERN           cores of programs of this name are no failure ("berthd"); otherwise any core is
#   say TEXT                        a line for the case's log
#
# In a node /host is $case_dir/NAME/host, read-write, and /build what "meson install" installs. An unexpected status of
# any command ends the case (set -e); of one in "$(...)" as an argument, which bash itself lets pass, a mark in its output
# tells those functions that look at it. As an operand of [[ ]] or (( )) it is not seen: assign it to a variable first.

: "${image:?}" "${build_dir:?}" "${case_dir:?}" "${source_dir:?}" "${case_file:?}"
# shellcheck source=/dev/null
source "$source_dir/tests/lab/guest/machine.sh"
guest_tools=$source_dir/tests/lab/guest
expected_cores=()
nodes=()
case_complete=0 # past its last line
case_told=0     # why it fails

say() {
        printf '%s\n' "# $*"
}

# The innermost line of the case's own file that is being run.
case_line() {
        local i -
        { set +x; } 2>/dev/null
        for ((i = 0; i < ${#BASH_SOURCE[@]}; i++)); do
                if [[ ${BASH_SOURCE[i]} == "$case_file" ]]; then
                        printf '%s line %s' "${case_file##*/}" "${BASH_LINENO[i - 1]}"
                        return
                fi
        done
}

fail() {
        printf 'FAILED: %s: %s\n' "$(case_line)" "$*" >&2
        mark_failure 1
        case_told=1
        exit 1
}

failure_mark=$'\n<a command failed: status '

# In a command substitution, whose standard output is a pipe: what is printed is not all there should have been.
mark_failure() { # status
        ((BASH_SUBSHELL == 0)) || [[ ! -p /dev/stdout ]] || printf '%s%s>' "$failure_mark" "$1"
}

# The trap on ERR. What fails in a subshell may be expected by its parent, and is the case's failure only if that says so.
command_failed() { # its status, the command
        local word=FAILED
        ((BASH_SUBSHELL == 0)) || word='# failed'
        echo "$word: $(case_line): status $1: $2" >&2
        mark_failure "$1"
        case_told=1
        exit "$1"
}

# Arguments that a failed command has printed.
whole() { # what, arguments
        local what=$1 argument
        shift
        for argument; do
                [[ $argument != *"$failure_mark"* ]] || fail "$what: what is looked at could not be had: $argument"
        done
}

# A look into a guest takes it a tenth of a second of a processor: the longer it has been waited for, the rarer they become.
wait_for() { # seconds, command
        local start=${EPOCHREALTIME/[.,]/} seconds=$1 waited pause
        shift
        until "$@"; do
                waited=$((${EPOCHREALTIME/[.,]/} - start))
                if ((waited >= seconds * 1000000)); then
                        echo "not within $seconds s: $*" >&2
                        return 1
                fi
                pause=$((waited / 8 < 50000 ? 50000 : waited / 8 > 800000 ? 800000 : waited / 8))
                sleep "0.$(printf %06d $pause)"
        done
}

check() {
        local what=$1 status=0
        shift
        whole "$what" "$@"
        "$@" || status=$?
        ((status == 0)) || fail "$what (exit status $status: $*)"
}

refused() {
        local what=$1 text='' expected=1 output status=0
        shift
        case $1 in
        --with) text=$2 expected='' ;;
        --status) expected=$2 ;;
        esac
        [[ $1 != --* ]] || shift 2
        whole "$what" "$@"
        output=$("$@" 2>&1) || status=$?
        ((status != 0)) || fail "$what: was not refused: $* printed: $output"
        # 124: its time, or the guest does not answer; 125: no guest; 126, 127: no such program; above: a signal
        if [[ -n $expected ]]; then
                ((status == expected)) || fail "$what: no refusal, but status $status: $* printed: $output"
        else
                ((status < 124)) || fail "$what: no refusal, but status $status: $* printed: $output"
        fi
        [[ $output == *"$text"* ]] || fail "$what: refused, but without '$text': $output"
}

equal() {
        whole "$@"
        [[ $2 == "$3" ]] || fail "$1: expected '$2', seen '$3'"
}

differ() {
        whole "$@"
        [[ $2 != "$3" ]] || fail "$1: '$2' as before"
}

contains() {
        whole "$@"
        [[ $3 == *"$2"* ]] || fail "$1: '$2' is not in: $3"
}

lacks() {
        whole "$@"
        [[ -n $3 ]] || fail "$1: there is nothing to look at"
        [[ $3 != *"$2"* ]] || fail "$1: '$2' is in: $3"
}

absent() { # what, node, line, arguments of grep
        local what=$1 node=$2 line=$3 status=0 found
        shift 3
        found=$(on "$node" "set -o pipefail; ($line) >/run/lab-looked-at || exit 3
                [ -s /run/lab-looked-at ] || exit 4
                grep $(printf '%q ' "$@") /run/lab-looked-at; status=\$?; rm /run/lab-looked-at; exit \$status" 2>&1) || status=$?
        case $status in
        0) fail "$what: found: $found" ;;
        1) ;;
        3) fail "$what: cannot be looked at: $line: $found" ;;
        4) fail "$what: there is nothing to look at: $line: $found" ;;
        *) fail "$what: status $status: $found" ;;
        esac
}

absent_in() { # what, node, arguments of grep, with files
        local what=$1 node=$2
        shift 2
        # a file that goes away while grep reads its directory is no reason to fail
        refused "$what" on "$node" "for try in 1 2 3 4 5; do
                grep $(printf '%q ' "$@"); status=\$?
                [ \$status = 2 ] || break
        done
        exit \$status"
}

not_mounted() { # what, node, target
        refused "$1" on "$2" "grep -F ' $3 ' /proc/self/mountinfo"
}

core_expected() {
        expected_cores+=("$1")
}

bridge() {
        local name=$1 address=${2-}
        if ! ip link show dev "$name" >/dev/null 2>&1; then
                ip link add "$name" type bridge
                # else it takes its lowest port's, and changes it under the neighbours when ports come and go
                ip link set "$name" address "02:$(printf %s "bridge $name" | md5sum | sed 's/\(..\)\(..\)\(..\)\(..\)\(..\).*/\1:\2:\3:\4:\5/')"
                ip link set "$name" up
        fi
        [[ -z $address ]] || ip addr replace "$address" dev "$name"
}

ceph_up() {
        bridge lab0 10.90.0.254/24
        "$source_dir/tests/lab/ceph" up "$case_dir/ceph" 10.90.0.254
}

ceph_signal() { # STOP or CONT, mon or osd
        kill "-$1" "$("$source_dir/tests/lab/ceph" pid "$case_dir/ceph" "$2")"
}

ceph_get() { # a name in its "ready" file
        sed -n "s/^$1=//p" "$case_dir/ceph.ready"
}

# Of a node: directory, and variables of that name in it.
node_set() {
        printf '%s' "$3" >"$case_dir/$1/$2"
}

node_get() {
        [[ -d $case_dir/$1 ]] || fail "there is no node $1"
        [[ ! -e $case_dir/$1/$2 ]] || printf '%s' "$(<"$case_dir/$1/$2")"
}

node_tap() {
        echo "tap-${1:0:11}"
}

node_running() {
        local pid
        pid=$(node_get "$1" pid)
        [[ -n $pid && -d /proc/$pid && $(readlink "/proc/$pid/exe") == *qemu* ]]
}

# name, how ("restore" or "boot"), and from what saved state: starts qemu
node_start() {
        local name=$1 how=$2 saved=${3-} dir=$case_dir/$1 memory=share=off,mem-path=${3-}/ram words arguments=()
        node_running "$name" && fail "node $name runs already"
        words="lab.name=$name lab.mac=$(node_get "$name" mac) lab.ip=$(node_get "$name" ip)"
        if [[ $how == restore ]]; then
                arguments=(-incoming defer -append x)
        else
                memory="share=off,mem-path=$dir/ram"
                rm -f "$dir/ram"
                arguments=(-append "$machine_cmdline $words $(node_get "$name" cmdline)")
        fi
        machine_describe "$image" "$memory" "$(node_get "$name" memory)" "$(node_get "$name" cpus)" \
                "file=disk.qcow2,format=qcow2,cache=writeback" "$(node_tap "$name")"
        (
                cd "$dir" || exit
                machine_make_ports
                rm -f qmp
                # shellcheck disable=SC2154 # set by machine_describe
                setsid "${machine[@]}" "${arguments[@]}" </dev/null >>vmm 2>&1 &
                echo $! >pid
        )
        if [[ $how == restore ]]; then
                node_qmp "$name" migrate-set-capabilities '{"capabilities": [{"capability": "x-ignore-shared", "state": true}]}' \
                        migrate-incoming "{\"uri\": \"exec:cat $saved/state\"}" wait-migrated cont
                read -ra words <<<"$words"
                on -t 120 "$name" /usr/lib/lab/setup "${words[@]}" "lab.now=$EPOCHREALTIME" \
                        "lab.seed=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')"
        else
                node_qmp "$name" query-status >/dev/null
                rm -f "$dir/ram" # qemu has it open
                on -t 360 "$name" systemctl is-system-running --wait >"$dir/boot-state" 2>&1 || {
                        node_running "$name" || fail "node $name does not boot"
                        say "node $name: $(<"$dir/boot-state")"
                }
        fi
}

# The commands of its monitor, see tests/lab/guest/qmp.
node_qmp() {
        local name=$1
        shift
        (cd "$case_dir/$name" && "$guest_tools/qmp" qmp "$@")
}

node() {
        local name=$1 ip='' on_bridge=lab0 how=restore memory=$machine_memory cpus=$machine_cpus bare='' mac dir tap
        local saved=$build_dir/saved
        shift
        while (($# > 0)); do
                case $1 in
                --ip) ip=$2 && shift ;;
                --bridge) on_bridge=$2 && shift ;;
                --memory) memory=$2 how=boot && shift ;;
                --cpus) cpus=$2 how=boot && shift ;;
                --cold) how=boot ;;
                --bare) bare=1 saved=$image ;;
                *) fail "node: unknown option $1" ;;
                esac
                shift
        done
        dir=$case_dir/$name tap=$(node_tap "$name")
        [[ ! -e $dir ]] || fail "there is a node $name already"
        mkdir -p "$dir/host" "$dir/build"
        nodes+=("$name")
        mac=$(printf %s "$name" | md5sum | sed 's/\(..\)\(..\)\(..\)\(..\).*/52:54:\1:\2:\3:\4/')
        node_set "$name" mac "$mac"
        node_set "$name" ip "$ip"
        node_set "$name" memory "$memory"
        node_set "$name" cpus "$cpus"
        mount --bind "$build_dir/root" "$dir/build"
        bridge "$on_bridge"
        ip tuntap add dev "$tap" mode tap
        ip link set "$tap" master "$on_bridge" up
        if [[ $how == restore ]]; then
                qemu-img create -q -f qcow2 -b "$saved/saved.qcow2" -F qcow2 "$dir/disk.qcow2"
        else
                qemu-img create -q -f qcow2 -b "$image/root.img" -F raw "$dir/disk.qcow2"
        fi
        node_start "$name" "$how" "$saved"
        [[ $how == restore || -n $bare ]] || on "$name" "${install_line:?}"
}

node_install_debs() {
        local name=$1
        shift
        mkdir -p "$case_dir/$name/host/debs"
        cp "$@" "$case_dir/$name/host/debs/"
        on -t 600 "$name" "cd /host/debs && DEBIAN_FRONTEND=noninteractive apt-get -y --no-install-recommends --allow-downgrades -o Dpkg::Use-Pty=0 install $(
                for f; do printf './%q ' "${f##*/}"; done
        )"
}

# What the guest has is better: it is the one that is the same for all.
node_put_suites() {
        tar -C "$build_dir/suites" -cf "$case_dir/$1/host/suites.tar" .
        on "$1" 'mkdir -p /var/lab-suites && tar -C /var/lab-suites -xf /host/suites.tar && rm /host/suites.tar
                for file in /var/lab-suites/lib/*; do [[ ! -e /usr/lib/x86_64-linux-gnu/${file##*/} ]] || rm "$file"; done'
}

# In one line: which assertion failed or how it ended, the seed, and what was gone through last.
suite_reason() { # its output
        sed 's/\x1b\[[0-9;]*m//g' "$1" | awk '
                match($0, /seed [0-9]+/) { seed = substr($0, RSTART, RLENGTH) }
                / at [a-z]+\.[a-z-]+, time [0-9]+$/ { last = $0 }
                /^\[----\] .*: Assertion Failed/ { told = 1 }
                told && /^\[----\] +[^ ]/ { said = said substr($0, match($0, /[^][ -]/)) " " }
                !/^\[----\]/ { told = 0 }
                /^\[FAIL\]|^\[----\].*(CRASH|Unexpected signal)|^[a-z_]+, line [0-9]+: / { said = said $0 " " }
                END { print said (last ? "(last case: " last ") " : "") seed }'
}

node_start_berthd() {
        local name=$1
        shift
        on "$name" mkdir -p /etc/berth
        (($# == 0)) || printf '%s\n' "$@" | on -i "$name" 'cat >/etc/berth/berthd.conf'
        on "$name" systemctl start berthd
        check "berthd answers on $name" on "$name" berthctl version
}

journal_of() {
        local name=$1
        shift
        on "$name" journalctl --quiet --sync
        on "$name" journalctl --no-pager "$@"
}

room() {
        local start=${EPOCHREALTIME/[.,]/}
        on "$1" berthctl version >/dev/null 2>&1 || :
        echo $((5 + 30 * (${EPOCHREALTIME/[.,]/} - start) / 1000000))
}

# Options, then the node, then the command; one word is a line for bash.
on() {
        local options=(-t 120) name
        while [[ $1 == -* ]]; do
                options+=("$1")
                [[ $1 != -t ]] || options+=("$2")
                [[ $1 != -t ]] || shift
                shift
        done
        name=$1
        shift
        (($# > 1)) || set -- bash -c "$1"
        "$image/on" "${options[@]}" "$case_dir/$name" "$@"
}

# Whether qemu has gone with all its threads. Before, it may have given up its memory, and still hold its disk's lock.
node_gone() {
        local pid tasks
        pid=$(node_get "$1" pid)
        [[ -d /proc/$pid ]] || return 0
        tasks=(/proc/"$pid"/task/*)
        ((${#tasks[@]} <= 1)) && ! grep -qs '^State:[[:space:]]*[^Z]' "/proc/$pid/status"
}

# Waits until qemu has gone, at most so many seconds.
node_wait_off() {
        local i
        for ((i = 0; i < $2 * 50; i++)); do
                node_gone "$1" && return
                sleep 0.02
        done
        fail "node $1 has not shut down within $2 s"
}

node_boot() {
        node_start "$1" boot
}

node_reboot() {
        # the guest is gone before the command can tell its status
        on "$1" systemctl reboot --no-block || :
        node_wait_off "$1" 240
        node_boot "$1"
}

node_power_cut() {
        local pid
        pid=$(node_get "$1" pid)
        kill -KILL "$pid"
        node_wait_off "$1" 60
        [[ ${2-} == --off ]] || node_boot "$1"
}

node_link() {
        node_qmp "$1" set_link "{\"name\": \"n0\", \"up\": $([[ $2 == up ]] && echo true || echo false)}"
}

node_cut() {
        ip link set "$(node_tap "$1")" down
}

node_heal() {
        ip link set "$(node_tap "$1")" up
}

node_freeze() {
        node_qmp "$1" stop
}

node_thaw() {
        node_qmp "$1" cont
}

# Cores that nobody expects, one a line.
unexpected_cores() {
        local core pattern program
        for core in "$case_dir"/*/host/core.*; do
                [[ -e $core ]] || continue
                program=${core##*/core.} program=${program%.*.*}
                for pattern in "${expected_cores[@]}"; do
                        # shellcheck disable=SC2053 # a pattern is what is wanted
                        [[ $program == $pattern ]] && continue 2
                done
                echo "$core"
        done
}

show_core() {
        local core=$1 program
        program=${core##*/core.} program=${program%.*.*}
        echo "core dump of $program: $core"
        program=$(find "$build_dir" -type f -perm -0100 -name "$program*" ! -path "$build_dir/root/*" | head -n 1)
        if [[ -n $program ]] && command -v gdb >/dev/null; then
                gdb -q -batch -ex 'thread apply all bt' "$program" "$core" 2>/dev/null | grep -E '^(#|Thread|Program)' || :
        fi
}

# What a failed case leaves for its reader, in its directory.
collect() {
        local name core
        for name in "${nodes[@]}"; do
                if node_running "$name"; then
                        "$image/on" -t 10 "$case_dir/$name" bash -c 'ps axfo pid,ppid,stat,wchan:20,args; cat /proc/self/mountinfo; dmesg | tail -n 100' \
                                >"$case_dir/$name/state" 2>&1 || :
                else
                        echo "node $name does not run any more"
                        tail -n 20 "$case_dir/$name/vmm"
                        tail -n 20 "$case_dir/$name/console"
                fi
                if [[ -s $case_dir/$name/host/journal ]]; then
                        echo "journal of $name:"
                        # without the boot that all guests share
                        tac "$case_dir/$name/host/journal" | sed '/due to virtual machine fork$/,$d' | head -n 30 | tac
                fi
        done
        for core in "$case_dir"/*/host/core.*; do
                [[ ! -e $core ]] || show_core "$core"
        done
}

# What the case took of the host's processors: its nodes that run at the end, and all that has ended, nodes before a reboot among them.
tell_cpu_time() {
        local name files=()
        for name in "${nodes[@]}"; do
                ! node_running "$name" || files+=("/proc/$(node_get "$name" pid)/stat")
        done
        times >"$case_dir/times" # not in a subshell, which has children of its own
        awk -v hz="$(getconf CLK_TCK)" 'FILENAME ~ /times$/ { if (FNR == 2) { split($0, t, /[ms ]+/); n += t[1] * 60 + t[2] + t[3] * 60 + t[4] } next }
                { n += ($14 + $15) / hz } END { printf "%.0f", n }' "$case_dir/times" "${files[@]}" >"$case_dir/cpu"
}

# The end of the case, however it came.
case_end() {
        local status=$? cores=''
        { set +x; } 2>/dev/null
        # bash ends for some errors, such as an unset variable, without the trap on ERR; by "exit" it ends with any status
        if ((!case_complete && !case_told)); then
                echo "FAILED: ended before its last line, with status $status"
                status=$((status ? status : 1))
        fi
        trap '' TERM
        trap - EXIT ERR
        set +e
        tell_cpu_time
        cores=$(unexpected_cores)
        if ((status == 0)) && [[ -n $cores ]]; then
                echo "FAILED: a program dumped core: $cores"
                status=1
        fi
        ((status == 0)) || collect
        if ((status != 0)) && [[ ${BERTH_VM_DEBUG-} == 1 ]]; then
                echo "The case has failed; its nodes (${nodes[*]}) still run. End this shell to end them." >/dev/tty
                debug_shell
        fi
        exit "$status"
}

# The library at hand, the case's nodes at work.
debug_shell() {
        export -f on node_get fail say
        export image case_dir
        bash --norc -i </dev/tty >/dev/tty 2>&1
}
