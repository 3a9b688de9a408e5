# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck shell=bash disable=SC2154 # lib.sh's
#
# What the cases package-* share: packages, and the calls of a kubelet to the driver at its installed place.
plugins=/usr/libexec/kubernetes/kubelet-plugins/volume/exec

package_set() { # new or old: the directory of its packages
        "$source_dir/tests/check/package-set" "$1" 2>"$case_dir/packages-$1.log" || fail "no packages: $(tail -n 30 "$case_dir/packages-$1.log")"
}

package_install() { # node, new or old; prints apt's output
        local set_dir
        set_dir=$(package_set "$2")
        # debconf's hook, which takes a second to find that without apt-utils it can do nothing
        on "$1" rm -f /etc/apt/apt.conf.d/70debconf
        node_install_debs "$1" "$set_dir"/berth{,-nfs,-rbd}_*.deb
}

# The same scripts in the same order in less time, for cases that have shown apt's way.
package_install_by_dpkg() { # node, new or old
        local set_dir
        set_dir=$(package_set "$2")
        mkdir -p "$case_dir/$1/host/debs-$2"
        cp "$set_dir"/berth{,-nfs,-rbd}_*.deb "$case_dir/$1/host/debs-$2/"
        on -t 600 "$1" "dpkg --install /host/debs-$2/*.deb 2>&1"
}

package_version() { # new or old
        local set_dir
        set_dir=$(package_set "$1")
        dpkg-deb -f "$set_dir"/berth_*.deb Version
}

package_names() { # node: what of berth is installed
        on "$1" "dpkg-query -W -f '\${db:Status-Abbrev} \${Package}\n' 'berth*' | sed -n 's/^ii *//p' | xargs"
}

pod_target() { # pod, uid
        echo "/var/lib/kubelet/pods/$2/volumes/berth~loop/data-$1"
}

# The answer of the driver to one call.
driver() { # node, call, arguments
        local node=$1
        shift
        on -t 300 "$node" "$plugins/berth~loop/loop" "$@"
}

# As the kubelet does: it makes the directory, calls, and removes the directory after unmounting.
pod_mount() { # node, pod, uid
        local target answer
        target=$(pod_target "$2" "$3")
        on "$1" "umask 027 && mkdir -p '$target'"
        answer=$(driver "$1" mount "$target" "{\"kubernetes.io/fsType\":\"ext4\",\"kubernetes.io/pod.name\":\"$2\",\
\"kubernetes.io/pod.namespace\":\"default\",\"kubernetes.io/pod.uid\":\"$3\",\"kubernetes.io/pvOrVolumeName\":\"data-$2\",\
\"kubernetes.io/readwrite\":\"rw\",\"kubernetes.io/serviceAccount.name\":\"default\",\
\"path\":\"/var/lib/berth/loop/$2.img\",\"size\":\"64M\"}")
        contains "mount for $2" '"status":"Success"' "$answer"
}

pod_unmount() { # node, pod, uid
        local target answer
        target=$(pod_target "$2" "$3")
        answer=$(driver "$1" unmount "$target")
        contains "unmount for $2" '"status":"Success"' "$answer"
        check "the target of $2 is free" on "$1" rmdir "$target"
}

# Every mount of berth's with its mount ID and device.
volume_mounts() { # node
        on "$1" "awk '\$5 ~ \"^/run/berth/staging/|/volumes/berth~\" { print \$1, \$3, \$5 }' /proc/self/mountinfo | sort"
}

unit_property() { # node, unit, property
        on "$1" systemctl show -P "$3" "$2"
}
