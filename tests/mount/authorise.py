# SPDX-License-Identifier: MIT
#
# usage: authorise.py MOUNTPOINT, as root, with the images that authorise.sh makes.
#
# For each caller, each place and each verb: first the system calls that the verb stands for, as
# that caller, then the request, as the same caller. Both have to end alike: done or not; when not,
# with the same error, or with one that says no more than the error of the system call; when done,
# with the same owner, group and mode.

import contextlib
import errno
import itertools
import json
import os
import stat
import sys
import time

MNT = sys.argv[1]
ALICE, BOB, TEAM = 1001, 1002, 4242
CALLERS = {
    'root': (0, 0, []),
    'alice': (ALICE, ALICE, []),
    'bob': (BOB, BOB, []),
    'carol, of the team too': (1003, 1003, [7, TEAM]),
    'dave, of the team': (1004, TEAM, []),
    'erin, of many groups': (1005, 1005, list(range(10000, 10500)) + [TEAM]),
}
FOLDERS = {  # name: (uid, gid, mode)
    'open': (ALICE, ALICE, 0o777),
    'private': (ALICE, ALICE, 0o700),
    'searchable': (ALICE, ALICE, 0o711),
    'readable': (ALICE, ALICE, 0o744),
    'drop': (ALICE, ALICE, 0o733),
    'fixed': (ALICE, ALICE, 0o555),
    'sticky-root': (0, 0, 0o1777),
    'sticky-alice': (ALICE, ALICE, 0o1777),
    'team': (0, TEAM, 0o2770),
    'team-sticky': (0, TEAM, 0o3775),
    'not-for-team': (ALICE, TEAM, 0o707),
    'private/inner': (BOB, BOB, 0o777),
}
OWNERS = {'alice': (ALICE, ALICE), 'bob': (BOB, BOB), 'root': (0, 0), 'team': (0, TEAM)}
problems = 0
cases = 0


def wrong(*what):
    global problems
    problems += 1
    if problems <= 20:
        print(*what)


@contextlib.contextmanager
def acting_as(caller):
    uid, gid, groups = CALLERS[caller]
    os.setgroups(groups)
    os.setegid(gid)
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups([])


def path(name):
    return os.path.join(MNT, name)


def attempt(what):
    """0, or the number of the error."""
    try:
        what()
        return 0
    except OSError as error:
        return error.errno


def ask(**request):
    fd = os.open(path('.goldfs/control'), os.O_RDWR)
    try:
        os.write(fd, json.dumps(request).encode())
        text = b''
        while piece := os.read(fd, 65536):
            text += piece
    finally:
        os.close(fd)
    return json.loads(text)


def ask_when_closed(**request):
    """The kernel says that a file was closed after close(2) has returned."""
    for _ in range(250):
        reply = ask(**request)
        if outcome(reply) != errno.EBUSY:
            break
        time.sleep(0.02)
    return reply


def outcome(reply):
    return getattr(errno, reply['errno']) if reply['status'] else 0


def name_of(number):
    return errno.errorcode.get(number, 'done')


def compare(case, kernel, reply):
    global cases
    cases += 1
    got = outcome(reply)
    if got == kernel:
        return
    # Both refuse: what is said must not be more than the kernel says.
    if kernel and got and got in (errno.EACCES, errno.EPERM):
        return
    # What the caller may see there is the wrong kind of thing, whatever else.
    if got == errno.EISDIR and attempt_as(case[0], lambda: os.listdir(path(case[2]))) != \
            errno.ENOTDIR and attempt_as(case[0], lambda: os.lstat(path(case[2]))) == 0:
        return
    # The name is looked at before the right to write; either tells him nothing new.
    if kernel and got and kernel in (errno.EACCES, errno.EPERM) and got == errno.EEXIST:
        if attempt_as(case[0], lambda: os.lstat(path(case[2]))) == 0:
            return
    wrong(case, 'system calls:', name_of(kernel), 'request:', name_of(got), reply.get('error', ''))


def attempt_as(caller, what):
    if os.geteuid() == CALLERS[caller][0]:
        return attempt(what)
    with acting_as(caller):
        return attempt(what)


def make_folders():
    for name, (uid, gid, mode) in FOLDERS.items():
        os.mkdir(path(name))
        os.chown(path(name), uid, gid)
        os.chmod(path(name), mode)


def put(name, owner, mode=0o644):
    with open(path(name), 'w'):
        pass
    os.chown(path(name), *OWNERS[owner])
    os.chmod(path(name), mode)


def drop(name):
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path(name))


def look(name):
    st = os.lstat(path(name))
    return st.st_uid, st.st_gid, stat.S_IMODE(st.st_mode)


def sources():
    found = ['golden/' + n for n in ('open.img', 'root-only.img', 'group.img', 'owner-none.img',
                                     'closed/open.img', 'closed/none.img', 'searchable/open.img',
                                     'searchable/none.img', 'searchable', 'none/none')]
    for folder in FOLDERS:
        for owner, mode in itertools.product(('alice', 'root', 'team'), (0o600, 0o640)):
            name = f'{folder}/{owner}-{mode:o}'
            put(name, owner, mode)
            found.append(name)
        found.append(f'{folder}/none')
    return found


def check_sources():
    os.mkdir(path('scratch'))
    os.chmod(path('scratch'), 0o777)
    for caller, name in itertools.product(CALLERS, sources()):
        with acting_as(caller):
            def read():
                fd = os.open(path(name), os.O_RDONLY | os.O_NOFOLLOW)
                try:
                    os.pread(fd, 1, 0)  # EISDIR
                finally:
                    os.close(fd)
            kernel = attempt(read)
            reply = ask(verb='clone', source=name, targets=['scratch/t'])
            compare((caller, 'clone from', name), kernel, reply)
            kernel = attempt(lambda: os.lstat(path(name)))
            compare((caller, 'stat', name), kernel, ask(verb='stat', paths=[name]))
            if name == 'golden/searchable':
                kernel = attempt(lambda: os.listdir(path(name)))
            compare((caller, 'what if', name), kernel,
                    ask(verb='stat', paths=[name], if_removed=True))
        drop('scratch/t')


def check_targets():
    for caller, folder, there in itertools.product(CALLERS, FOLDERS, [None] + list(OWNERS)):
        name = f'{folder}/target'
        case = (caller, 'clone to', name, 'there:', there)

        def fresh():
            drop(name)
            if there:
                put(name, there)

        def create():
            os.umask(0o22)
            os.close(os.open(path(name), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644))

        def replace():
            other = name + '.new'
            os.umask(0o22)
            os.close(os.open(path(other), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644))
            try:
                os.rename(path(other), path(name))
            finally:
                os.seteuid(0)
                drop(other)

        for by_kernel, force in ((create, False), (replace, True)):
            fresh()
            kernel = attempt_as(caller, by_kernel)
            result = look(name) if kernel == 0 else None
            fresh()
            with acting_as(caller):
                reply = ask(verb='clone', source='golden/open.img', targets=[name], replace=force)
            compare(case + (force,), kernel, reply)
            if kernel == 0 and outcome(reply) == 0 and look(name) != result:
                wrong(case, force, 'is', look(name), 'should be', result)
            if outcome(reply) and there and look(name)[:2] != OWNERS[there]:
                wrong(case, force, 'was refused and replaced')
        drop(name)


def reachable():
    """The files that find(1) finds."""
    found = set()
    for folder, _, files in os.walk(MNT):
        inside = os.path.relpath(folder, MNT)
        if inside.split('/')[0] in ('.goldfs', '.snapshots'):
            continue
        for file in files:
            try:
                os.lstat(os.path.join(folder, file))
            except OSError:
                continue  # a folder that may be read but not searched
            found.add(os.path.normpath(os.path.join(inside, file)))
    return found


def check_snapshots():
    """Made, deleted and renamed by who may make and remove files there, or owns the file; gone back to
    by who may write it; and seen by who may go to it."""
    for caller, folder, owner in itertools.product(CALLERS, FOLDERS, OWNERS):
        name = f'{folder}/snap'
        drop(name)
        ask(verb='clone', source='golden/open.img', targets=[name])
        os.chown(path(name), *OWNERS[owner])
        os.chmod(path(name), 0o640)
        for snapshot in 'abcd':
            if outcome(ask(verb='snapshot-create', paths=[name], name=snapshot)):
                wrong('root cannot make a snapshot of', name)

        def mine():
            return os.lstat(path(name)).st_uid == os.geteuid()

        def create():
            os.close(os.open(path(name), os.O_RDONLY))
            if not mine():
                os.close(os.open(path(name + '.new'), os.O_WRONLY | os.O_CREAT | os.O_EXCL))

        def remove():
            if not mine():
                os.unlink(path(name + '.old'))

        def write():
            os.close(os.open(path(name), os.O_WRONLY))

        def read():
            os.close(os.open(path(f'.snapshots/{name}/a'), os.O_RDONLY))

        def check(verb, by_kernel, **request):
            put(name + '.old', owner)
            kernel = attempt_as(caller, by_kernel)
            drop(name + '.new')
            drop(name + '.old')
            with acting_as(caller):
                compare((caller, verb, name, owner), kernel, ask_when_closed(verb=verb, **request))

        check('snapshot-create', create, paths=[name], name='n')
        check('snapshot-list', lambda: os.lstat(path(name)), path=name)
        check('snapshot-rollback', lambda: (write(), read()), path=name, name='a')
        check('snapshot-rename', remove, path=name, name='b', to='e')
        check('snapshot-delete', remove, path=name, names=['c'])
        check('refresh', write, paths=[name], golden='golden/open.img')
        if attempt_as(caller, lambda: os.lstat(path(name))) != \
                attempt_as(caller, lambda: os.lstat(path(f'.snapshots/{name}/a'))):
            wrong(caller, 'sees one of', name, 'and its snapshots')

        def unlink():
            os.unlink(path(name + '.old'))

        check('remove', lambda: (unlink(), remove() if mine() else None), path=name)
        ask(verb='remove', path=name)
        if os.path.lexists(path(f'.snapshots/{name}')):
            wrong('snapshots of', name, 'are left')


def check_listing():
    for caller in CALLERS:
        with acting_as(caller):
            expected = reachable()
            listed = {entry['path'] for entry in ask(verb='list')['goldfs']}
            if listed != expected:
                wrong(caller, 'list:', sorted(listed ^ expected)[:5])
            for folder in FOLDERS:
                kernel = attempt(lambda: os.listdir(path(folder)))
                if kernel == 0:
                    kernel = attempt(lambda: os.lstat(path(folder + '/.')))
                compare((caller, 'list', folder), kernel, ask(verb='list', path=folder))
            with open(path('.goldfs/metrics')) as file:
                series = {line.split('"')[1] for line in file if 'clone="' in line}
            clones = {name for name in expected if not name.startswith('golden/')}
            if series != clones:
                wrong(caller, 'metrics:', sorted(series ^ clones)[:5])
            rows = {row['path'] for row in ask(verb='top', all=True)['goldfs']}
            if rows != clones:
                wrong(caller, 'top:', sorted(rows ^ clones)[:5])


def check_names_of_bases():
    """A clone of an image in a closed folder that was given away does not name the folder."""
    reply = ask(verb='clone', source='golden/closed/open.img', targets=['open/gift'])
    os.chown(path('open/gift'), BOB, BOB)
    for caller, base in (('bob', ''), ('root', 'golden/closed/open.img')):
        with acting_as(caller):
            for reply in (ask(verb='stat', paths=['open/gift']), ask(verb='list', path='open/gift')):
                if reply['goldfs'][0]['base'] != base:
                    wrong(caller, 'base', reply['goldfs'][0]['base'])
    drop('open/gift')


def check_silence():
    """Nothing that everybody may read has a name out of a closed folder, nor has an error."""
    word = 'hushhush'
    ask(verb='clone', source='golden/open.img', targets=[f'private/{word}.img'])
    with open(path(f'private/{word}.img'), 'r+b') as file:
        file.write(b'x')
    if [row['path'] for row in ask(verb='top')['goldfs'] if word in row['path']] == []:
        wrong('top leaves out who writes')
    ask(verb='snapshot-create', paths=[f'private/{word}.img'], name='s')
    ask(verb='scrub', background=True)
    ask(verb='limit', path='private', bytes=1 << 40)
    said = []
    with acting_as('bob'):
        for folder, _, files in os.walk(path('.goldfs')):
            for file in files:
                with contextlib.suppress(OSError), open(os.path.join(folder, file), 'rb') as f:
                    if file != 'control':
                        said.append(f.read().decode())
        for verb in ('df', 'list', 'job-list', 'top'):
            said.append(json.dumps(ask(verb=verb)))
        for name in (word, 'nothing'):
            for request in ({'verb': 'clone', 'source': f'private/{name}.img', 'targets': ['open/x']},
                            {'verb': 'clone', 'source': 'golden/open.img',
                             'targets': [f'private/{name}.img'], 'replace': True},
                            {'verb': 'stat', 'paths': [f'private/{name}.img']},
                            {'verb': 'list', 'path': f'private/{name}.img'},
                            {'verb': 'snapshot-list', 'path': f'private/{name}.img'},
                            {'verb': 'snapshot-delete', 'path': f'.snapshots/private/{name}.img',
                             'names': ['s']},
                            {'verb': 'limit', 'path': f'private/{name}.img', 'bytes': 1 << 30}):
                said.append(json.dumps(ask(**request)).replace(f'private/{name}', ''))
    # Whether it exists is not told either.
    if said[-14:-7] != said[-7:]:
        wrong('what exists and what does not differ:', said[-14:])
    for text in said:
        if word in text:
            wrong('a name came out:', text[:500])
    drop(f'private/{word}.img')


def check_owner_only():
    for verb in ({'verb': 'settle'}, {'verb': 'upgrade', 'binary': '/bin/true'},
                 {'verb': 'scrub'}, {'verb': 'limit', 'path': 'open', 'bytes': 1 << 40}):
        for caller in CALLERS:
            if caller == 'root':
                continue
            with acting_as(caller):
                reply = ask(**verb)
            if outcome(reply) != errno.EPERM:
                wrong(caller, verb, reply)


def check_deputy():
    """Who opened the control file, and nobody else, may write to the descriptor."""
    put('private/secret', 'root', 0o600)
    request = json.dumps({'verb': 'stat', 'paths': ['private/secret']}).encode()
    with acting_as('bob'):
        fd = os.open(path('.goldfs/control'), os.O_RDWR)
    error = attempt(lambda: os.write(fd, request))
    if error != errno.EPERM:
        wrong('root wrote to what bob had opened:', name_of(error))
    os.setegid(TEAM)
    os.seteuid(BOB)
    error = attempt(lambda: os.write(fd, request))
    os.seteuid(0)
    os.setegid(0)
    if error != errno.EPERM:
        wrong('another group wrote to what bob had opened:', name_of(error))
    os.close(fd)


def check_client_ids():
    """The name of a request says nothing to others."""
    with acting_as('alice'):
        first = ask(verb='clone', source='golden/open.img', targets=['private/c'], client='same')
    with acting_as('bob'):
        second = ask(verb='clone', source='golden/open.img', targets=['private/c'], client='same')
    if outcome(first) != 0 or outcome(second) != errno.EACCES:
        wrong('client ids:', first, second)


make_folders()
check_sources()
check_targets()
check_snapshots()
check_listing()
check_names_of_bases()
check_owner_only()
check_silence()
check_deputy()
check_client_ids()
print(cases, 'cases,', problems, 'differ')
sys.exit(problems > 0)
