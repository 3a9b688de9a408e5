# SPDX-License-Identifier: LGPL-2.1-or-later
#
# Completion of berthctl for fish. With the agent down, or slow, no volumes are completed.

# "Key" or "target" of what the agent knows; a name with characters that JSON escapes is left out.
function __berthctl_known
    set -l words (commandline -opc)
    set -l options
    if set -l i (contains -i -- --socket $words)
        set options --socket $words[(math $i + 1)]
    end
    timeout 2 berthctl $options list --json 2>/dev/null |
        sed -n "s/^ *\"$argv[1]\": \"\\([^\"\\\\]*\\)\",\\{0,1\\}\$/\\1/p" | sort -u
end

function __berthctl_verb
    set -l skip 0
    for word in (commandline -opc)[2..-1]
        if test $skip = 1
            set skip 0
        else if test $word = --socket
            set skip 1
        else if not string match -q -- '-*' $word
            echo $word
            return
        end
    end
end

function __berthctl_verb_is
    contains -- (__berthctl_verb) $argv
end

set -l no_verb 'test -z "$(__berthctl_verb)"'
complete -c berthctl -f
complete -c berthctl -l socket -r -F -d "the agent's socket"
complete -c berthctl -l json -d 'print the answer as one JSON value'
complete -c berthctl -l help -d 'print a help text'
complete -c berthctl -n $no_verb -l version -d 'print the version'

complete -c berthctl -n "$no_verb; or __berthctl_verb_is help" -a mount -d 'attach, stage and publish a volume'
complete -c berthctl -n "$no_verb; or __berthctl_verb_is help" -a unmount -d 'unmount a directory'
complete -c berthctl -n "$no_verb; or __berthctl_verb_is help" -a list -d 'list the volumes of this node'
complete -c berthctl -n "$no_verb; or __berthctl_verb_is help" -a status -d 'show the agent and its mounters'
complete -c berthctl -n "$no_verb; or __berthctl_verb_is help" -a explain -d 'show all that is known of one volume'
complete -c berthctl -n "$no_verb; or __berthctl_verb_is help" -a reconcile -d 'put right what differs'
complete -c berthctl -n "$no_verb; or __berthctl_verb_is help" -a stats -d 'show space, inodes and health'
complete -c berthctl -n "$no_verb; or __berthctl_verb_is help" -a expand -d 'grow a mounted volume'
complete -c berthctl -n "$no_verb; or __berthctl_verb_is help" -a detach -d 'detach a volume, or take its device away'
complete -c berthctl -n "$no_verb; or __berthctl_verb_is help" -a fence -d 'shut a dead node out of an image'
complete -c berthctl -n "$no_verb; or __berthctl_verb_is help" -a drain -d 'unmount and detach every volume'
complete -c berthctl -n "$no_verb; or __berthctl_verb_is help" -a forget -d 'drop what is remembered of a volume'
complete -c berthctl -n "$no_verb; or __berthctl_verb_is help" -a version -d 'show the versions'
complete -c berthctl -n "$no_verb; or __berthctl_verb_is help" -a help -d 'explain a verb'

complete -c berthctl -n '__berthctl_verb_is mount' -l target -x -a '(__fish_complete_directories)' -d 'directory to mount at'
complete -c berthctl -n '__berthctl_verb_is mount' -l driver -x -a 'loop nfs rbd' -d 'kind of storage'
complete -c berthctl -n '__berthctl_verb_is mount' -l option -x -d 'option of the driver, KEY=VALUE'
complete -c berthctl -n '__berthctl_verb_is mount' -l fs-type -x -a 'ext4 ext3 ext2 xfs btrfs' -d 'file system'
complete -c berthctl -n '__berthctl_verb_is mount' -l read-only -d 'mount read-only'
complete -c berthctl -n '__berthctl_verb_is mount' -l mount-option -x -d 'option of the mount'
complete -c berthctl -n '__berthctl_verb_is mount' -l secret-file -x -d 'secret from a file, KEY=FILE'
complete -c berthctl -n '__berthctl_verb_is mount' -l volume-name -x -d 'name of the PersistentVolume'
complete -c berthctl -n '__berthctl_verb_is mount' -l pod-name -x -d 'name of the pod'
complete -c berthctl -n '__berthctl_verb_is mount' -l pod-namespace -x -d 'namespace of the pod'
complete -c berthctl -n '__berthctl_verb_is mount' -l pod-uid -x -d 'UID of the pod'

complete -c berthctl -n '__berthctl_verb_is detach' -l force -d 'take the device away whoever holds it'
complete -c berthctl -n '__berthctl_verb_is fence' -l option -x -d 'option of the driver, KEY=VALUE'
complete -c berthctl -n '__berthctl_verb_is fence' -l secret-file -x -d 'secret from a file, KEY=FILE'
complete -c berthctl -n '__berthctl_verb_is drain' -l timeout -x -d 'seconds to go on'
complete -c berthctl -n '__berthctl_verb_is reconcile' -l dry-run -d 'print what would be done'
complete -c berthctl -n '__berthctl_verb_is forget' -l formatted -d 'also forget that it was once formatted'
complete -c berthctl -n '__berthctl_verb_is unmount stats expand explain' -a '(__berthctl_known target)' -d target
complete -c berthctl -n '__berthctl_verb_is explain forget detach fence' -a '(__berthctl_known Key)' -d volume
