# SPDX-License-Identifier: LGPL-2.1-or-later
#
# Completion of berthd for fish.

complete -c berthd -f
complete -c berthd -s h -l help -d 'print a help text'
complete -c berthd -l version -d 'print the version'
complete -c berthd -l dump-config -d 'print the configuration in force'
complete -c berthd -l verbose -d 'log debugging messages too'
complete -c berthd -l system-bus -d 'serve on the system bus too'
complete -c berthd -l config -r -F -d 'configuration file'
complete -c berthd -l socket -r -F -d 'socket to serve'
complete -c berthd -l runtime-dir -x -a '(__fish_complete_directories)' -d 'records, locks, staging mounts'
complete -c berthd -l state-dir -x -a '(__fish_complete_directories)' -d 'lasting state'
complete -c berthd -l kubelet-root -x -a '(__fish_complete_directories)' -d "the kubelet's root directory"
complete -c berthd -l mounter-dir -x -a '(__fish_complete_directories)' -d 'where the mounters are'
