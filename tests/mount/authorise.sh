#!/bin/bash
# SPDX-License-Identifier: MIT
#
# Every verb of the control file against what plain system calls give the same caller: callers by
# folders by what stands there. The work is done by authorise.py, as users that need not exist.
# Time limit: 120 s
. "$(dirname "$0")/lib.sh"
setup "$1"
python3 -c 'import sys; sys.exit(sys.version_info < (3, 8))' || skip "needs python3"

head -c 64K /dev/urandom >images/open.img
for name in root-only group owner-none; do
	cp images/open.img images/$name.img
done
mkdir images/closed images/searchable
cp images/open.img images/closed/
cp images/open.img images/searchable/
chmod 644 images/open.img images/closed/open.img images/searchable/open.img
chmod 600 images/root-only.img
chmod 640 images/group.img
chgrp 4242 images/group.img
# Its owner is shut out, everybody else is let in.
chmod 044 images/owner-none.img
chown 1001:1001 images/owner-none.img
chmod 700 images/closed
chmod 711 images/searchable
mount_goldfs metrics=clone
python3 "$here/authorise.py" "$mnt" || fail "the control file does not decide as the kernel does"
