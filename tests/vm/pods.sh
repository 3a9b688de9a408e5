# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck shell=bash disable=SC2154 # lib.sh's
#
# Pods' volumes as the kubelet asks for them, for cases: source "$source_dir/tests/vm/pods.sh".
#
#   pod_target POD             the pod's volume directory
#   pod_mount NODE POD [EXTRA] makes it and calls the driver; EXTRA: more of the JSON, such as ',"size":"1G"'; prints the answer
#   pod_up NODE POD [EXTRA]    the same, and fails the case unless it is Success
#   pod_down NODE POD          unmount, which has to succeed, and the directory's removal
#   pod_hello NODE POD         writes a line into the volume, fsynced; pod_check NODE POD looks for it

driver=/usr/libexec/kubernetes/kubelet-plugins/volume/exec/berth~loop/loop

pod_uid() {
        local sum
        read -r sum _ < <(printf %s "$1" | cksum)
        printf '11111111-2222-3333-4444-%012d' "$sum"
}

pod_target() {
        echo "/var/lib/kubelet/pods/$(pod_uid "$1")/volumes/berth~loop/data-$1"
}

pod_mount() { # node, pod, more JSON
        local target size=',"size":"64M"'
        target=$(pod_target "$2")
        [[ ${3-} != *'"size"'* ]] || size=''
        on "$1" "mkdir -p $target && $driver mount $target '{\"kubernetes.io/fsType\":\"ext4\",\
\"kubernetes.io/pod.name\":\"$2\",\"kubernetes.io/pod.namespace\":\"default\",\"kubernetes.io/pod.uid\":\"$(pod_uid "$2")\",\
\"kubernetes.io/pvOrVolumeName\":\"data-$2\",\"kubernetes.io/readwrite\":\"rw\",\
\"path\":\"/var/lib/berth/loop/$2.img\"$size${3-}}'"
}

pod_up() {
        contains "mount of $2" '"Success"' "$(pod_mount "$@")"
        check "$2 is mounted" on "$1" mountpoint --quiet "$(pod_target "$2")"
}

pod_down() {
        local target
        target=$(pod_target "$2")
        contains "unmount of $2" '"Success"' "$(on "$1" "$driver unmount $target && rmdir $target")"
}

pod_hello() {
        on "$1" "cd $(pod_target "$2") && echo hello $2 >line && sync line ."
}

pod_check() {
        equal "$2's line" "hello $2" "$(on "$1" cat "$(pod_target "$2")/line")"
}
