# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck shell=bash disable=SC2034,SC2054
#
# The virtual machine, for tests/lab/guest/build and tests/vm/lib.sh: the state saved by one is loaded by the other, so both
# must describe the same machine. Always TCG: where KVM can be opened it need not work, and its saved state is another one.

machine_ports=12
machine_memory=1024
machine_cpus=1
# no_timer_check: on a busy host the kernel's test of its timer fails, and it panics
machine_cmdline='console=ttyS0 panic=-1 quiet mitigations=off tsc=reliable no_timer_check nowatchdog nokaslr net.ifnames=0 random.trust_cpu=1 init_on_alloc=0 hardened_usercopy=off apparmor=0 audit=0 cgroup_disable=memory systemd.show_status=1'

# Fifos are opened for both directions by qemu, so that the guest's end is never hung up. In the current directory.
machine_make_ports() {
        local i
        rm -f port.*
        for ((i = 0; i < machine_ports; i++)); do
                mkfifo -m 0600 "port.$i.in" "port.$i.out"
        done
}

# image directory: sets the array emulator, what starts qemu: the image's own (tests/lab/guest/build), else this machine's.
machine_emulator() {
        local root=$1/emulator/usr
        emulator=(qemu-system-x86_64)
        [[ -d $root ]] || return 0
        emulator=(env QEMU_MODULE_DIR="$root/lib/x86_64-linux-gnu/qemu" "$root/bin/qemu-system-x86_64"
                -L "$root/share/qemu" -L "$root/share/seabios")
}

# image directory, options of the memory backend, MiB, CPUs, disk with its options, tap: sets the array machine. All
# paths but the image's are relative to the directory in which qemu is started: host/ is shared, build the project's build.
#
# Without an HPET: the guest lets it run on after the boot, and qemu would wake 250 times a second for nobody, with a poll of all ports.
machine_describe() {
        local image=$1 memory=$2 mib=$3 cpus=$4 disk=$5 tap=$6 i emulator
        machine_emulator "$image"
        machine=("${emulator[@]}" -accel "tcg,thread=multi,tb-size=512" -machine q35,hpet=off,memory-backend=ram -cpu Nehalem
                -smp "$cpus" -m "$mib" -object "memory-backend-file,id=ram,size=${mib}M,$memory"
                -nodefaults -display none -no-reboot -no-user-config
                -chardev file,id=console,path=console,append=on -serial chardev:console
                -qmp unix:qmp,server=on,wait=off
                -device virtio-rng-pci -device vmgenid,guid=auto
                -kernel "$image/vmlinuz" -initrd "$image/initrd"
                -drive "$disk,if=virtio"
                -virtfs local,path=host,mount_tag=host,security_model=none
                -virtfs local,path=build,mount_tag=build,security_model=none,readonly=on
                -netdev "tap,id=n0,ifname=$tap,script=no,downscript=no"
                -device virtio-net-pci,id=eth0,netdev=n0,mac=52:54:00:00:00:01,romfile=
                -device virtio-serial-pci,max_ports=$((machine_ports + 1)))
        for ((i = 0; i < machine_ports; i++)); do
                machine+=(-chardev "pipe,id=p$i,path=port.$i" -device "virtserialport,chardev=p$i,name=lab.$i,nr=$((i + 1))")
        done
}
