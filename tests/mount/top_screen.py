#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""goldfs top on a terminal: keys, sizes, restarts, and the terminal given back whatever ends it.

usage: top_screen.py GOLDFS MOUNT

MOUNT has the clones busy.img and idle.img. It is unmounted in the end. What is on the screen is read
from full redraws, which a change of the window's size brings about.
"""
import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import threading
import time

GOLDFS, MNT = sys.argv[1:]
PATIENCE = 30
HOSTILE = b'esc\x1b[2J\xff\xc3\xa4.img'


def fail(*what):
    print('FAILED:', *what)
    sys.exit(1)


class Terminal:
    def __init__(self, *args, rows=40, columns=180, term='xterm'):
        self.master, self.slave = pty.openpty()
        self.rows, self.columns = rows, columns
        self.resize(rows, columns)
        self.before = termios.tcgetattr(self.slave)
        self.seen = b''
        env = dict(os.environ, TERM=term, LC_ALL='C.UTF-8')
        self.process = subprocess.Popen([GOLDFS, 'top', '-d', '0.2', *args, MNT], stdin=self.slave,
                                        stdout=self.slave, stderr=self.slave, env=env,
                                        start_new_session=True, preexec_fn=self.control)
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()

    def control(self):
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    def read(self):
        while True:
            try:
                piece = os.read(self.master, 65536)
            except OSError:
                return
            self.seen += piece

    def resize(self, rows, columns):
        self.rows, self.columns = rows, columns
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack('HHHH', rows, columns, 0, 0))

    def screen(self):
        """What a full redraw writes, without what places it."""
        start = len(self.seen)
        self.resize(self.rows, self.columns - 1 if self.columns % 2 == 0 else self.columns + 1)
        end = time.monotonic() + PATIENCE
        # The last line is drawn last.
        while b'q quit' not in self.seen[start:]:
            if time.monotonic() > end or self.process.poll() is not None:
                fail('no redraw:', self.seen[start:][-500:])
            time.sleep(0.02)
        text = self.seen[start:].decode('utf-8', 'replace')
        text = re.sub(r'\x1b\[[0-9;]*[Hd]', '\n', text)
        return re.sub(r'\x1b(\[[?0-9;]*[A-Za-z]|\(B|[=>])', ' ', text)

    def shows(self, pattern, wanted=True):
        end = time.monotonic() + PATIENCE
        while True:
            screen = self.screen()
            if bool(re.search(pattern, screen)) == wanted:
                return screen
            if time.monotonic() > end:
                fail('the screen', 'lacks' if wanted else 'has', pattern, screen)
            time.sleep(0.1)

    def key(self, keys):
        os.write(self.master, keys)

    def ends(self, status):
        try:
            got = self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            fail('it did not end')
        if got != status:
            fail('status', got, 'and not', status, self.seen[-300:])
        time.sleep(0.1)
        if termios.tcgetattr(self.slave) != self.before:
            fail('the terminal has other settings than before')
        if self.seen.count(b'\x1b[?1049h') != self.seen.count(b'\x1b[?1049l'):
            fail('the screen was not given back')
        if self.seen.rfind(b'\x1b[?25l') > self.seen.rfind(b'\x1b[?25h') >= 0:
            fail('the cursor was not given back')
        os.close(self.master)
        os.close(self.slave)


stop = threading.Event()


def write_for_ever():
    with open(f'{MNT}/busy.img', 'r+b', buffering=0) as file:
        while not stop.is_set():
            file.seek(0)
            for _ in range(4):
                file.write(os.urandom(65536))
                os.fsync(file.fileno())
                time.sleep(0.01)


def worker():
    with open(f'{MNT}/.goldfs/stats.json') as file:
        return json.load(file)['daemon']['worker_pid']


writer = threading.Thread(target=write_for_ever)
writer.start()
try:
    t = Terminal()
    screen = t.shows(r'busy\.img')
    for word in ('goldfs top:', 'Store:', 'READ/s', 'FLUSH/s', 'W-AVG', 'UNIQUE', 'SHARED/s', 'PATH'):
        if word not in screen:
            fail('no', word, screen)
    if 'idle.img' in screen:
        fail('a clone that nobody uses is shown', screen)
    t.key(b'a')
    t.shows('since the start')
    t.key(b'a')
    t.shows('since the start', False)
    t.key(b'o')
    t.shows('active only')
    t.key(b'o')
    t.key(b'\x1b[C\x1b[C\x1b[Dr')
    t.shows(r'busy\.img')
    t.key(b'h')
    t.shows('column to sort by')
    t.key(b'?')
    t.shows('column to sort by', False)
    t.key(b'+')
    t.shows('every 0.5s')
    t.key(b'-')
    t.shows('every 0.2s')
    t.key(b'p')
    t.shows('PAUSED')
    t.key(b'p')
    t.shows('PAUSED', False)
    t.key(b'RWFLUGPP \x1b[A\x1b[B\x1b[5~\x1b[6~')
    t.shows(r'busy\.img')
    for rows, columns in ((5, 20), (1, 1), (3, 200), (24, 80), (60, 400)):
        t.resize(rows, columns)
        time.sleep(0.1)
    t.shows(r'busy\.img')

    # Another worker: the view goes on, and what was added up stays.
    os.kill(worker(), signal.SIGKILL)
    t.shows('worker replaced 1 times')
    t.shows(r'busy\.img')
    t.key(b'q')
    t.ends(0)

    # All clones, names that would drive the terminal, a narrow window.
    t = Terminal('--all', columns=80)
    screen = t.shows(r'idle\.img')
    if HOSTILE in t.seen or b'\x1b[2J\xff' in t.seen:
        fail('a name went to the terminal as it is')
    if 'esc%1B[2J%FF%C3%A4.img' not in screen:
        fail('no escaped name', screen)
    if 'other\\x1b[2J' not in screen:
        fail('no escaped control character', screen)
    t.key(b'\x03')
    t.ends(0)

    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        t = Terminal()
        t.shows('Store:')
        t.process.send_signal(number)
        t.ends(-number)

    # A terminal that goes away.
    t = Terminal()
    t.shows('Store:')
    os.close(t.slave)
    os.close(t.master)
    if t.process.wait(PATIENCE) not in (0, -signal.SIGHUP):
        fail('status', t.process.returncode, 'after its terminal was gone')

    t = Terminal(term='no-such-terminal')
    t.process.wait(PATIENCE)
    time.sleep(0.1)
    if t.process.returncode != 1 or b'is not known, use goldfs top --batch' not in t.seen:
        fail('an unknown terminal:', t.process.returncode, t.seen)
finally:
    stop.set()
    writer.join()

# The mount goes: a message, behind the screen that was given back.
t = Terminal()
t.shows('Store:')
subprocess.run([GOLDFS, 'umount', MNT], check=True)
t.ends(1)
if b'is not mounted any more' not in t.seen[t.seen.rfind(b'\x1b[?1049l'):]:
    fail('no message:', t.seen[-500:])
