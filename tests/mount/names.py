#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""usage: names.py FOLDER SECONDS [SEED [GOLDEN]]

Changes a folder of its own at random and knows what each call must answer: files are made, written,
cut, renamed over each other, exchanged, unlinked while open, cloned from GOLDEN; folders and
symbolic links come and go; a file that is there must give EEXIST and one that is not ENOENT. The
first wrong answer ends it with status 1. Status 0: SECONDS are over and the folder is what it should
be. Nobody else may touch the folder.
"""
import ctypes
import errno
import os
import random
import sys
import time

folder, seconds = sys.argv[1], float(sys.argv[2])
seed = int(sys.argv[3]) if len(sys.argv) > 3 and sys.argv[3] else random.randrange(1 << 32)
golden = sys.argv[4] if len(sys.argv) > 4 else None
print(f"names.py: seed {seed}", flush=True)
rnd = random.Random(seed)
libc = ctypes.CDLL(None, use_errno=True)
NOREPLACE, EXCHANGE = 1, 2

names = {}  # name -> File, "dir", or ("link", target)
opened = []  # (descriptor, File)
deeds = 0


class File:
    def __init__(self, data=b""):
        self.data = bytearray(data)


def wrong(text):
    print(f"names.py: seed {seed}, after {deeds} calls: {text}", flush=True)
    sys.exit(1)


def call(what, expected, fn, *args):
    """Calls fn, which must fail with the errno expected, or succeed when that is 0."""
    global deeds
    deeds += 1
    try:
        result = fn(*args)
    except OSError as e:
        if e.errno != expected:
            wrong(f"{what}: {errno.errorcode.get(e.errno)}, not "
                  f"{errno.errorcode.get(expected, 'success')}")
        return None
    if expected:
        wrong(f"{what}: success, not {errno.errorcode[expected]}")
    return result


def path(name):
    return os.path.join(folder, name)


def renameat2(old, new, flags):
    if libc.renameat2(-100, os.fsencode(old), -100, os.fsencode(new), flags) < 0:
        e = ctypes.get_errno()
        raise OSError(e, os.strerror(e))


def some_name():
    return f"n{rnd.randrange(24)}"


def some_file():
    files = [n for n, f in names.items() if isinstance(f, File)]
    return rnd.choice(files) if files else None


def content():
    return rnd.randbytes(rnd.choice((1, 100, 512, 4096, 5000, 20000)))


def write_all(fd, data, offset):
    while data:
        n = os.pwrite(fd, data, offset)
        data, offset = data[n:], offset + n


def read_all(fd, size):
    parts, offset = [], 0
    while offset < size:
        part = os.pread(fd, size - offset, offset)
        if not part:
            break
        parts.append(part)
        offset += len(part)
    return b"".join(parts)


def check_content(fd, file, what):
    data = call(f"read {what}", 0, read_all, fd, len(file.data) + 1)
    if data != file.data:
        wrong(f"{what} reads other bytes: {len(data)} of {len(file.data)}")


def do_create():
    name = some_name()
    fd = call(f"create {name}", errno.EEXIST if name in names else 0, os.open, path(name),
              os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
    if fd is None:
        return
    names[name] = File(content())
    call(f"write {name}", 0, write_all, fd, bytes(names[name].data), 0)
    if rnd.random() < 0.3:
        call(f"fsync {name}", 0, os.fsync, fd)
    keep_or_close(fd, names[name])


def keep_or_close(fd, file):
    if rnd.random() < 0.3 and len(opened) < 8:
        opened.append((fd, file))
    else:
        call("close", 0, os.close, fd)


def do_unlink():
    name = some_name()
    what = names.get(name)
    expected = errno.ENOENT if what is None else errno.EISDIR if what == "dir" else 0
    call(f"unlink {name}", expected, os.unlink, path(name))
    if not expected:
        del names[name]


def do_rename():
    old, new = some_name(), some_name()
    if "dir" in (names.get(old), names.get(new)):
        return
    flags = rnd.choice((0, 0, NOREPLACE, EXCHANGE))
    expected = 0
    if old not in names:
        expected = errno.ENOENT
    elif flags == NOREPLACE and new in names:
        expected = errno.EEXIST
    elif flags == EXCHANGE and new not in names:
        expected = errno.ENOENT
    call(f"rename {old} to {new}, flags {flags}", expected, renameat2, path(old), path(new), flags)
    if expected or old == new:
        return
    if flags == EXCHANGE:
        names[old], names[new] = names[new], names[old]
    else:
        names[new] = names.pop(old)


def do_mkdir():
    name = some_name()
    expected = errno.EEXIST if name in names else 0
    call(f"mkdir {name}", expected, os.mkdir, path(name))
    if not expected:
        names[name] = "dir"


def do_rmdir():
    name = some_name()
    what = names.get(name)
    expected = errno.ENOENT if what is None else 0 if what == "dir" else errno.ENOTDIR
    call(f"rmdir {name}", expected, os.rmdir, path(name))
    if not expected:
        del names[name]


def do_symlink():
    name, target = some_name(), some_name()
    expected = errno.EEXIST if name in names else 0
    call(f"symlink {name}", expected, os.symlink, target, path(name))
    if not expected:
        names[name] = ("link", target)
    elif isinstance(names[name], tuple):
        if call(f"readlink {name}", 0, os.readlink, path(name)) != names[name][1]:
            wrong(f"{name} leads elsewhere")


def do_open():
    name = some_file()
    if name:
        fd = call(f"open {name}", 0, os.open, path(name), os.O_RDWR)
        check_content(fd, names[name], name)
        keep_or_close(fd, names[name])


def do_use_open():
    if not opened:
        return
    fd, file = opened[rnd.randrange(len(opened))]
    data = content()
    offset = rnd.randrange(len(file.data) + 1)
    call("write to an open file", 0, write_all, fd, data, offset)
    file.data[offset:offset + len(data)] = data
    if rnd.random() < 0.2:
        size = rnd.randrange(len(file.data) + 1)
        call("ftruncate", 0, os.ftruncate, fd, size)
        del file.data[size:]
    check_content(fd, file, "an open file")
    if os.fstat(fd).st_size != len(file.data):
        wrong("an open file has another size")


def do_close():
    if opened:
        fd, file = opened.pop(rnd.randrange(len(opened)))
        check_content(fd, file, "a file before it is closed")
        call("close", 0, os.close, fd)


def copy(name, source_path, size):
    src = call(f"open {source_path}", 0, os.open, source_path, os.O_RDONLY)
    dst = call(f"create {name}", 0, os.open, path(name), os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
    done = 0
    while done < size:
        n = call(f"copy_file_range to {name}", 0, os.copy_file_range, src, dst, size - done + 4096)
        if not n:
            wrong(f"copy to {name} ended after {done} of {size} bytes")
        done += n
    call("close", 0, os.close, src)
    return dst


def do_clone():
    name, source = some_name(), some_file()
    if name in names or not source:
        return
    names[name] = File(names[source].data)
    fd = copy(name, path(source), len(names[name].data))
    check_content(fd, names[name], f"{name}, cloned from {source},")
    keep_or_close(fd, names[name])


def do_clone_golden():
    name = some_name()
    if name in names or not golden or len(names) > 20 or rnd.random() < 0.5:
        return
    with open(golden, "rb") as f:
        names[name] = File(f.read())
    fd = copy(name, golden, len(names[name].data))
    check_content(fd, names[name], f"{name}, cloned from the image,")
    keep_or_close(fd, names[name])


def do_list():
    found = sorted(call("list", 0, os.listdir, folder))
    if found != sorted(names):
        wrong(f"lists {found}, not {sorted(names)}")


def do_xattr():
    name = some_file()
    if name:
        value = rnd.randbytes(20)
        call(f"setxattr {name}", 0, os.setxattr, path(name), "user.test", value)
        if call(f"getxattr {name}", 0, os.getxattr, path(name), "user.test") != value:
            wrong(f"{name} has another user.test")


deeds_there_are = [do_create, do_create, do_unlink, do_unlink, do_rename, do_rename, do_mkdir,
                   do_rmdir, do_symlink, do_open, do_use_open, do_use_open, do_close, do_clone,
                   do_clone_golden, do_list, do_xattr]
os.mkdir(folder)
end = time.monotonic() + seconds
while time.monotonic() < end:
    rnd.choice(deeds_there_are)()
do_list()
for name, what in names.items():
    if isinstance(what, File):
        with open(path(name), "rb") as f:
            check_content(f.fileno(), what, name)
while opened:
    do_close()
print(f"names.py: {deeds} calls, all answered as they should be")
