#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# install-driver.sh FILE PLUGIN_DIR VENDOR DRIVER: copies FILE, installed (and stripped) already, to
# PLUGIN_DIR/VENDOR~DRIVER/DRIVER. Both are absolute paths, below $DESTDIR if that is set.
#
# The kubelet watches the directory and probes a driver folder the moment it appears: an empty folder or a
# half-written file makes it drop the driver, and at its first probe all others too. So the folder is made under
# a name with a leading dot, which the kubelet skips, and renamed; an older driver is replaced by renaming the file.
set -eu

file="${DESTDIR:-}$1"
folder="${DESTDIR:-}$2/$3~$4"
if [ -e "$folder" ] && [ ! -d "$folder" ]; then
        echo "install-driver.sh: $folder is not a directory" >&2
        exit 1
fi
mkdir -p "${DESTDIR:-}$2"
if [ -d "$folder" ]; then
        temporary="$folder/.$4.new"
        trap 'rm -f "$temporary"' EXIT
        install -m 0755 "$file" "$temporary"
        mv -fT "$temporary" "$folder/$4"
else
        temporary="${DESTDIR:-}$2/.$3~$4.new"
        trap 'rm -rf "$temporary"' EXIT
        rm -rf "$temporary"
        mkdir -m 0755 "$temporary"
        install -m 0755 "$file" "$temporary/$4"
        mv -T "$temporary" "$folder"
fi
