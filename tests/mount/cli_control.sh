#!/bin/bash
# SPDX-License-Identifier: MIT
#
# The control file: garbage changes nothing, and nobody does through it what his own system calls
# could not.
. "$(dirname "$0")/lib.sh"
setup "$1"
command -v jq >/dev/null || skip "needs jq"
command -v setpriv >/dev/null || skip "needs setpriv"
setpriv --reuid=1002 --regid=1002 --clear-groups test -x "$work" ||
	skip "needs a folder for temporary files that other users may enter"
failures=0

wrong()
{
	echo "line ${BASH_LINENO[-2]}: $*"
	failures=$((failures + 1))
}

# ask REQUEST: the reply to it goes to the file "reply".
ask()
{
	exec 5<>mnt/.goldfs/control || return 1
	printf '%s' "$1" >&5
	cat <&5 >reply
	exec 5>&-
}

# The same as another user: as UID GID GROUPS REQUEST. GROUPS is "none" or "1,2".
as()
{
	local groups=--clear-groups
	[ "$3" = none ] || groups=--groups=$3
	setpriv --reuid="$1" --regid="$2" $groups bash -c \
		'exec 5<>mnt/.goldfs/control; printf "%s" "$1" >&5; cat <&5' - "$4" >reply
}

says()
{
	jq -e "$1" reply >/dev/null || wrong "not $1: $(head -c 500 reply)"
}

refused()
{
	says ".status == 1 and .errno == \"$1\" and (.error | length) > 0"
}

head -c 1M /dev/urandom >images/open.img
head -c 1M /dev/urandom >images/closed.img
head -c 1M /dev/urandom >images/group.img
chmod 644 images/open.img
chmod 600 images/closed.img
chmod 640 images/group.img
chgrp 4242 images/group.img
mkdir images/hidden
cp images/open.img images/hidden/
chmod 700 images/hidden
mount_goldfs
cp "$goldfs" goldfs && chmod 755 goldfs
mkdir mnt/alice mnt/shared mnt/drop mnt/team
chown 1001:1001 mnt/alice
chmod 700 mnt/alice
chmod 1777 mnt/shared
chmod 711 mnt/drop
chown 0:4242 mnt/team
chmod 2770 mnt/team
targets='"alice/a.img","shared/root.img","drop/d.img"'
ask '{"verb":"clone","source":"golden/open.img","targets":['$targets']}'
says '.status == 0 and .clones == 3'
chown 1001:1001 mnt/alice/a.img

# Garbage.
before=$(find mnt | sort)
for request in ' ' '{' '[]' 'null' '"x"' '{}' '{"verb":1}' '{"verb":"fly"}' '{"verb":"df","x":1}' \
	'{"verb":"clone"}' '{"verb":"clone","source":1,"targets":["x"]}' \
	'{"verb":"clone","source":"golden/open.img"}' \
	'{"verb":"clone","source":"golden/open.img","targets":[]}' \
	'{"verb":"clone","source":"golden/open.img","targets":"x"}' \
	'{"verb":"clone","source":"golden/open.img","targets":["x",1]}' \
	'{"verb":"clone","source":"golden/open.img","targets":["x",""]}' \
	'{"verb":"clone","source":"golden/open.img","targets":["x","../y"]}' \
	'{"verb":"clone","source":"golden/open.img","targets":["x",".."]}' \
	'{"verb":"clone","source":"golden/../golden/open.img","targets":["x"]}' \
	'{"verb":"clone","source":"golden/open.img","targets":["x"],"folder":"","pattern":"%d"}' \
	'{"verb":"clone","source":"golden/open.img","folder":"","pattern":"%d"}' \
	'{"verb":"clone","source":"golden/open.img","folder":"","pattern":"%d","count":0}' \
	'{"verb":"clone","source":"golden/open.img","folder":"","pattern":"%d","count":1e3}' \
	'{"verb":"clone","source":"golden/open.img","folder":"","pattern":"%d","count":1000000}' \
	'{"verb":"clone","source":"golden/open.img","folder":"","pattern":"%s","count":1}' \
	'{"verb":"clone","source":"golden/open.img","folder":"","pattern":"a/%d","count":1}' \
	'{"verb":"clone","source":"golden/open.img","targets":["x"],"replace":1}' \
	'{"verb":"clone","source":"golden/open.img","targets":["x"],"mode":"mean"}' \
	'{"verb":"clone","source":"golden/open.img","targets":["x","golden"]}' \
	'{"verb":"clone","source":"golden/open.img","targets":["x",".goldfs"]}' \
	'{"verb":"clone","source":"golden/open.img","targets":["x",".snapshots"]}' \
	'{"verb":"clone","source":"golden/open.img","targets":["x","golden/y"]}' \
	'{"verb":"clone","source":"golden/open.img","targets":["x",".goldfs/y"]}' \
	'{"verb":"clone","source":"golden/open.img","targets":["x",".snapshots/y"]}' \
	'{"verb":"clone","source":".goldfs/stats.json","targets":["x"]}' \
	$'{"verb":"\xff"}'; do
	ask "$request"
	says '.status == 1 and (.errno | test("^E[A-Z0-9]+$")) and (.error | length) > 0'
done
ask "$(head -c 100000 /dev/zero | tr '\0' '[')"
refused EINVAL
ask "$(head -c 100000 /dev/urandom | base64 -w 0)"
refused EINVAL
[ "$(find mnt | sort)" = "$before" ] || wrong "garbage changed something"
head -c 3000000 /dev/zero 2>/dev/null >mnt/.goldfs/control
truncate -s 5 mnt/.goldfs/control 2>/dev/null
ask '{"verb":"df"}'
says '.status == 0 and .store.clones == 3'

# A reply can be read in small pieces, and each descriptor has its own.
exec 5<>mnt/.goldfs/control 6<>mnt/.goldfs/control
printf '{"verb":"df"}' >&5
printf '{"verb":"fly"}' >&6
dd bs=7 status=none <&5 >reply
says '.status == 0'
dd bs=7 status=none <&6 >reply
refused EOPNOTSUPP
exec 5>&- 6>&-

# An ordinary user. Sources: what he may read.
as 1002 1002 none '{"verb":"clone","source":"golden/closed.img","targets":["shared/x"]}'
refused EACCES
as 1002 1002 none '{"verb":"clone","source":"golden/group.img","targets":["shared/x"]}'
refused EACCES
as 1002 1002 none '{"verb":"clone","source":"golden/hidden/open.img","targets":["shared/x"]}'
refused EACCES
as 1002 1002 none '{"verb":"clone","source":"alice/a.img","targets":["shared/x"]}'
refused EACCES
as 1002 1002 none '{"verb":"clone","source":"alice/nothing","targets":["shared/x"]}'
refused EACCES
as 1002 1002 none '{"verb":"clone","source":"drop/d.img","targets":["shared/ok1"],"umask":63}'
says '.status == 0'
as 1002 1002 4242,7 '{"verb":"clone","source":"golden/group.img","targets":["shared/ok2"]}'
says '.status == 0'
as 1002 4242 none '{"verb":"clone","source":"golden/group.img","targets":["shared/ok3"]}'
says '.status == 0'
[ "$(stat -c %u:%g:%a mnt/shared/ok1)" = 1002:1002:600 ] || wrong "$(stat mnt/shared/ok1)"
[ "$(stat -c %u:%g:%a mnt/shared/ok3)" = 1002:4242:640 ] || wrong "$(stat mnt/shared/ok3)"

# Targets: where he may write, and what he may replace.
for target in x alice/x drop/x team/x nowhere/x; do
	as 1002 1002 none \
		'{"verb":"clone","source":"golden/open.img","targets":["shared/y","'$target'"]}'
	says '.status == 1'
done
[ ! -e mnt/shared/y ] || wrong "half of a request was done"
as 1002 1002 none \
	'{"verb":"clone","source":"golden/open.img","targets":["shared/root.img"],"replace":true}'
refused EPERM
as 1002 1002 none \
	'{"verb":"clone","source":"golden/open.img","targets":["shared/ok1"],"replace":true}'
says '.status == 0'
as 1002 1002 4242 '{"verb":"clone","source":"golden/open.img","targets":["team/t.img"]}'
says '.status == 0'
[ "$(stat -c %u:%g mnt/team/t.img)" = 1002:4242 ] || wrong "$(stat mnt/team/t.img)"
as 1002 1002 4242 '{"verb":"clone","source":"golden/open.img","targets":["shared/z","team/z"]}'
refused EINVAL

# Looking: what he could have reached.
as 1002 1002 none '{"verb":"list"}'
says '.status == 0 and ([.goldfs[].path] | sort) == ["golden/closed.img","golden/group.img",
	"golden/open.img","shared/ok1","shared/ok2","shared/ok3","shared/root.img"]'
as 1001 1001 none '{"verb":"list","path":"alice"}'
says '[.goldfs[].path] == ["alice/a.img"]'
as 1002 1002 none '{"verb":"list","path":"alice"}'
refused EACCES
as 1002 1002 none '{"verb":"list","path":"drop"}'
refused EACCES
as 1002 1002 none '{"verb":"stat","paths":["alice/a.img"]}'
refused EACCES
as 1002 1002 none '{"verb":"stat","paths":["drop/d.img"],"if_removed":true}'
says '.goldfs[0].path == "drop/d.img"'
as 1002 1002 none '{"verb":"stat","paths":["alice"]}'
says '.goldfs[0].kind == "folder" and .goldfs[0].virtual_bytes == 0'
as 1002 1002 none '{"verb":"df"}'
says '.store.clones > 3'

# The store is root's and the mount owner's, and so are his jobs.
as 1002 1002 none '{"verb":"settle"}'
refused EPERM
ask '{"verb":"settle"}'
says '.status == 0 and .job == 1'
as 1002 1002 none '{"verb":"job-list"}'
says '.jobs == []'
for verb in job-show job-wait job-cancel; do
	as 1002 1002 none '{"verb":"'$verb'","id":1}'
	refused ENOENT
done
setpriv --reuid=1002 --regid=1002 --clear-groups cat mnt/.goldfs/jobs/1.json 2>/dev/null &&
	wrong "another user's job was read"

# Root without the right to override, and root of a namespace of his own.
setpriv --bounding-set=-dac_override,-dac_read_search --inh-caps=-dac_override,-dac_read_search \
	bash -c 'exec 5<>mnt/.goldfs/control; printf "%s" "$1" >&5; cat <&5' - \
	'{"verb":"list","path":"alice"}' >reply
refused EACCES
if setpriv --reuid=1002 --regid=1002 --clear-groups unshare -r true 2>/dev/null; then
	setpriv --reuid=1002 --regid=1002 --clear-groups unshare -r bash -c \
		'exec 5<>mnt/.goldfs/control; printf "%s" "$1" >&5; cat <&5' - \
		'{"verb":"list","path":"alice"}' >reply 2>/dev/null
	[ ! -s reply ] || says '.status == 1'
fi

# The command line of an ordinary user says the same.
setpriv --reuid=1002 --regid=1002 --clear-groups \
	./goldfs clone mnt/golden/closed.img mnt/shared/c 2>err &&
	wrong "an unreadable image was cloned"
grep -q '^goldfs: cannot clone ".*/mnt/golden/closed.img": permission denied$' err || wrong "$(cat err)"
setpriv --reuid=1002 --regid=1002 --clear-groups ./goldfs list -n mnt >out || wrong "list as a user"
[ "$(wc -l <out)" -eq 7 ] || wrong "$(cat out)"

[ $failures -eq 0 ] || fail "$failures checks"
