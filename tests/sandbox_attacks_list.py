"""The attacks of the battery, by what they are after, one a row. `tests/sandbox_attacks.py` says how they are judged."""

# ruff: noqa: E501  an attack is one row, as in a table

import platform

from tests.sandbox_attacks import FATAL_CALLS, Attack

FILES = [
    Attack("read /etc/passwd", "tries(lambda: open('/etc/passwd').read())", reach=True),
    Attack("read a user's file", "tries(lambda: open(secret).read(), lambda: open(secret, 'rb', 0).read())", reach=True),
    Attack("list home and root", "import os\ntries(*[lambda p=p: os.listdir(p) for p in (home, '/', '/etc')])", reach=True),
    Attack("read the project", "tries(lambda: open(repo + '/pyproject.toml').read(), lambda: open(repo + '/.git/HEAD'))"),
    Attack(
        "read the parent through /proc",
        "import os\ntries(*[lambda n=n: open(f'/proc/{parent}/{n}', 'rb').read(1) for n in"
        " ('environ', 'maps', 'mem', 'cmdline', 'fd/0', 'root/etc/passwd')],"
        " lambda: open(f'/proc/{parent}/mem', 'r+b'), lambda: os.listdir('/proc'))",
        reach=True,
    ),
    Attack("read itself through /proc", "tries(*[lambda n=n: open('/proc/self/' + n).read() for n in ('environ', 'maps')])"),
    Attack(
        "write outside",
        "import os, sys\ntries(lambda: print(open(secret, 'w').write('x'), file=sys.stderr),"
        " lambda: open(repo + '/x.py', 'w'), lambda: open('/x', 'w'), lambda: os.mkdir(home + '/x'))",
        reach=True,
    ),
    Attack(
        "truncate without writing",
        "import os\ntries(lambda: os.open(secret, os.O_RDONLY | os.O_TRUNC), lambda: os.truncate(secret, 0) or 1)",
        reach=True,
    ),
    Attack(
        "delete and rename",
        "import os, shutil\ntries(lambda: os.unlink(secret) or 1, lambda: os.rename(secret, secret + 'x') or 1,"
        " lambda: os.rmdir(os.path.dirname(secret)) or 1, lambda: shutil.rmtree(os.path.dirname(secret)) or 1)",
        reach=True,
    ),
    Attack("through a symbolic link", "import os\ntries(lambda: os.symlink(secret, 'x'), lambda: open('x').read())", reach=True),
    Attack("through a hard link", "import os\ntries(lambda: os.link(secret, 'x') or 1, lambda: open('x').read())", reach=True),
    Attack(
        "change modes, owners, dates",
        "import os\ntries(lambda: os.chmod(secret, 0) or 1, lambda: os.chown(secret, 1, 1) or 1,"
        " lambda: os.utime(secret, (0, 0)) or 1, lambda: os.setxattr(secret, 'user.x', b'x') or 1)",
        reach=True,
    ),
    Attack(
        "spoil the standard library",
        "import os\nfile = os.__file__\ntries(lambda: open(file, 'a'), lambda: os.chmod(file, 0o777) or 1,"
        " lambda: os.utime(file, (0, 0)) or 1, lambda: os.fchmod(os.open(file, 0), 0o777) or 1,"
        " lambda: os.utime(os.open(file, 0), (0, 0)) or 1, lambda: open(os.path.dirname(file) + '/x.py', 'w'))",
        reach=True,
    ),
    Attack(
        "climb out of its folder",
        "import os\ntries(lambda: open('../' * 20 + 'etc/passwd').read(), lambda: os.chdir('/'), lambda:"
        " open('etc/passwd').read(), lambda: open('passwd', opener=lambda p, f: os.open(p, f, dir_fd=os.open('/etc', os.O_PATH))))",
        reach=True,
    ),
    Attack(
        "open by raw calls",
        "for flags in (0, 2, 0o1000, 0o10000000):\n    fd = call('openat', -100, secret.encode(), flags, 0)\n"
        "    if fd and os.read(fd - 1, 9): print('LOST')\n"
        "if call('openat2', -100, secret.encode(), bytes(24), 24) or call('truncate', secret.encode(), 0): print('LOST')",
        native=True,
        reach=True,
    ),
    Attack(
        "devices",
        "import os\ntries(*[lambda n=n: os.open('/dev/' + n, os.O_RDWR) for n in"
        " 'kmsg mem kvm tty sda vda fuse ptmx net/tun shm/x'.split()], lambda: os.mkfifo('x') or 1,"
        " lambda: os.mknod('x', 0o20600, os.makedev(1, 3)) or 1)",
    ),
    Attack("sparse file of 10 GB", "import os\ntries(lambda: os.truncate(os.open('x', 66), 10**10) or 1, lambda: os.posix_fallocate(os.open('x', 66), 0, 10**10) or 1)"),
    Attack(
        "fill the disk",
        "import os\ntotal = 0\ntry:\n    for n in range(1000):\n        with open(str(n), 'wb') as f: total += f.write(bytes(1 << 20))\n"
        "except OSError: pass\nif total > 64 << 20: print('LOST')",
        reach=True,
    ),
    Attack("a million files", "count = 0\ntry:\n    for n in range(10**6): open(str(n), 'w').close(); count += 1\nexcept OSError: pass\nif count > 5000: print('LOST')", reach=True),
    Attack("deep folders", "import os\ndepth = 0\ntry:\n    while True: os.mkdir('d'); os.chdir('d'); depth += 1\nexcept OSError: pass\nif depth > 5000: print('LOST')", reach=True),
]  # fmt: skip

NETWORK = [
    Attack("open a socket", "import socket\ntries(lambda: socket.create_connection(('127.0.0.1', port), 1), lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM), lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1))", reach=True),
    Attack("look up a name", "import socket\ntries(lambda: socket.getaddrinfo('localhost', 80, proto=6), lambda: socket.gethostbyname('example.com'))"),
    Attack("fetch a page", "import urllib.request\ntries(lambda: urllib.request.urlopen(f'http://127.0.0.1:{port}/', timeout=1))"),
    Attack("serve", "import socket, http.server\ntries(lambda: socket.create_server(('127.0.0.1', 0)), lambda: http.server.HTTPServer(('', 0), None))"),
    Attack("abstract sockets", "import socket\ntries(lambda: socket.socket(socket.AF_UNIX).connect('\\0x') or 1, lambda: socket.socketpair()[0].connect('\\0x') or 1, lambda: socket.socketpair()[0].bind('\\0y') or 1)"),
    Attack("unconnected pairs", "import socket\na, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)\ntries(lambda: a.sendto(b'x', '\\0x'), lambda: a.sendmsg([b'x']), lambda: socket.socketpair(socket.AF_NETLINK, socket.SOCK_RAW))"),
    Attack("every address family", "for family in range(46):\n    if call('socket', family, 1, 0) or call('socket', family, 3, 0): print('LOST', family)", native=True),
]  # fmt: skip

PROCESSES = [
    Attack("kill the parent", "import os\ntries(lambda: os.kill(parent, 9) or 1, lambda: os.killpg(os.getpgid(parent), 9) or 1)", reach=True),
    Attack("kill everyone", "import os\ntries(lambda: os.kill(-1, 9) or 1, lambda: os.kill(0, 9) or 1, lambda: os.kill(bystander, 9) or 1, lambda: os.killpg(0, 9) or 1)", reach=True),
    Attack("kill by raw calls", "for pid in (parent, bystander):\n    for got in (call('kill', pid, 9), call('tgkill', pid, pid, 9), call('tkill', pid, 9), call('rt_sigqueueinfo', pid, 9, bytes(128)), call('kill', pid | 1 << 32, 9)):\n        if got: print('LOST')", native=True, reach=True),
    Attack("kill through file owners", "import fcntl, os, signal\nr, w = os.pipe()\ntries(lambda: fcntl.fcntl(r, fcntl.F_SETOWN, parent) or 1, lambda: fcntl.fcntl(r, fcntl.F_SETSIG, 9) or 1)"),
    Attack("slow the parent", "import os, resource\ntries(lambda: os.setpriority(os.PRIO_PROCESS, parent, 19) or 1, lambda: os.sched_setaffinity(parent, [0]) or 1, lambda: resource.prlimit(parent, resource.RLIMIT_CPU, (1, 1)))", reach=True),
    Attack("fork bomb", "import os\ntry:\n    while True:\n        if os.fork() == 0: print('LOST')\n        print('LOST')\nexcept OSError: pass"),
    Attack("clone by raw calls", "flags = (17, 0x4111, 0x10000000, 0x3d0f00 | 0x20000000, 0x3d0f00 & ~0x10000)\nfor n in flags:\n    got = call('clone', n, 0, 0, 0, 0)\n    if got: print('LOST', n)\nfor name in ('fork', 'vfork'):\n    if name in NR and call(name): print('LOST')\nif call('clone3', bytes(88), 88): print('LOST')", native=True),
    Attack("start programs", "import os, subprocess\ntries(lambda: subprocess.run(['/bin/true']), lambda: os.posix_spawn('/bin/true', ['true'], {}), lambda: os.system('true') == 0, lambda: os.popen('echo hi').read())"),
    Attack("become a program", "import os, sys\ntries(lambda: os.execv('/bin/sh', ['sh', '-c', 'echo LOST']), lambda: os.execv(sys.executable, ['python', '-c', 'print(\"LOST\")']))"),
    Attack("become a written program", "import os\nopen('x', 'w').write('#!/bin/sh\\necho LOST\\n')\ntries(lambda: os.chmod('x', 0o700), lambda: os.execv('./x', ['x']))"),
    Attack("memfd and exec", "fd = call('memfd_create', b'x', 0)\nif fd: print('LOST')\nif call('execve', b'/bin/true', 0, 0): print('LOST')", native=True),
    Attack("daemonise", "import os\ntries(lambda: os.setsid() or 1, lambda: os.setpgid(0, 0) or 1, lambda: os.fork() or os.setsid() or os.fork())"),
    Attack("multiprocessing", "import multiprocessing as m\ntries(lambda: m.get_context('fork').Process(target=print, args=('LOST',)).start() or 1, lambda: m.get_context('spawn').Process(target=print).start() or 1)"),
    Attack("thread bomb", "import threading, time\ncount = 0\ntry:\n    for n in range(10000): threading.Thread(target=time.sleep, args=(60,), daemon=True).start(); count += 1\nexcept RuntimeError: pass\nif count > 1000: print('LOST')", timeout=3.0),
    Attack("a thread left running", "import threading, time\nthreading.Thread(target=time.sleep, args=(600,)).start()", success=False, timeout=1.0, timed_out=True),
    Attack("a daemon thread left spinning", "import threading\ndef spin():\n    while True: pass\nthreading.Thread(target=spin, daemon=True).start()", success=True),
]  # fmt: skip

KERNEL = [
    *FATAL_CALLS,
    Attack("calls of the x32 ABI", "NR['x'] = 0x40000000 | 39\ncall('x')\nprint('LOST')", success=False, native=True, fatal=platform.machine() == "x86_64"),
    Attack("calls in no table", "for name in ('setuid', 'setgroups', 'capset', 'seccomp', 'shmget', 'msgget', 'inotify_init1', 'fanotify_init', 'syslog', 'vhangup', 'timer_create', 'landlock_create_ruleset', 'mlockall', 'setsid', 'linkat', 'mknodat', 'fchmodat', 'utimensat', 'migrate_pages', 'process_madvise', 'sendmsg', 'bind', 'connect'):\n    if call(name, 0, 0, 0, 0, 0): print('LOST', name)", native=True),
    Attack("undo the locks", "for option, value in ((1, 0), (4, 1), (8, 1), (22, 0), (23, 0), (24, 0), (28, 0), (38, 0), (47, 2)):\n    if libc.prctl(option, value, 0, 0, 0) == 0: print('LOST', option)", native=True),
    Attack("take capabilities back", "import struct\nif libc.capset(struct.pack('=Ii', 0x20080522, 0), b'\\xff' * 24) == 0: print('LOST')\ntries(lambda: os.setuid(0) or 1, lambda: os.setresuid(0, 0, 0) or 1, lambda: os.setgroups([]) or 1)", native=True),
    Attack("raise limits", "import resource\ntries(*[lambda k=k: resource.setrlimit(k, (-1, -1)) or 1 for k in range(10)])\nif resource.getrlimit(resource.RLIMIT_AS)[0] != 256 << 20: print('LOST')"),
    Attack("write machine code", "import mmap\ntries(lambda: mmap.mmap(-1, 4096, prot=7), lambda: mmap.mmap(-1, 4096, prot=5))\npage = mmap.mmap(-1, 4096)\naddress = ctypes.addressof(ctypes.c_char.from_buffer(page))\nif call('mprotect', address, 4096, 5) or call('pkey_mprotect', address, 4096, 5, -1): print('LOST')", native=True),
    Attack("import a library it wrote", "import math, os, importlib.machinery as m, importlib.util as u\nif hasattr(math, '__file__'):\n    data = open(math.__file__, 'rb').read()\n    tries(lambda: open('math2.so', 'wb').write(data) and None, lambda: u.module_from_spec(u.spec_from_file_location('math', 'math2.so', loader=m.ExtensionFileLoader('math', os.path.abspath('math2.so')))))"),
    Attack("ctypes", "tries(lambda: __import__('ctypes'), lambda: __import__('_ctypes'), lambda: __import__('_ctypes_test'))\nclass Sly(str):\n    def __contains__(self, other): return False\n    def __str__(self): return 'x'\ntries(lambda: __import__(Sly('_ctypes')))"),
    Attack("shared memory", "try: from multiprocessing import shared_memory\nexcept ImportError: shared_memory = None\nif shared_memory: tries(lambda: shared_memory.SharedMemory(create=True, size=1 << 30))"),
]  # fmt: skip

RESOURCES = [
    Attack("memory bomb", "x = []\nwhile True: x.append(bytearray(10 << 20))", success=False),
    Attack("memory through mmap", "import mmap\ntries(lambda: mmap.mmap(-1, 1 << 30), lambda: [mmap.mmap(-1, 8 << 20) for _ in range(40)])"),
    Attack("memory through pipes", "import os\nn = 0\ntry:\n    while True:\n        r, w = os.pipe(); os.set_blocking(w, False); n += os.write(w, bytes(1 << 20))\nexcept OSError: pass\nif n > 64 << 20: print('LOST')"),
    Attack("spin", "while True: pass", success=False, timeout=1.0, timed_out=True),
    Attack("spin inside C", "pow(3, 10**9)", success=False, timeout=1.0, timed_out=True),
    Attack("sleep", "import time\ntime.sleep(600)", success=False, timeout=1.0, timed_out=True),
    Attack("ignore signals", "import signal, time\nfor n in set(range(1, 65)) - {9, 19, 32, 33}: signal.signal(n, signal.SIG_IGN)\ntime.sleep(600)", success=False, timeout=1.0, timed_out=True),
    Attack("stop itself", "import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)", success=False, timeout=1.0, timed_out=True),
    Attack("flood of output", "import os\nwhile True: os.write(1, b'x' * 65536)", success=False, timeout=1.0, timed_out=True),
    Attack("flood of errors", "import sys\nwhile True: sys.stderr.write('\\x00' * 65536)", success=False, timeout=1.0, timed_out=True),
    Attack("output that is not text", "import os\nos.write(1, bytes(range(256)) * 300)\nos.write(2, b'\\xff\\xfe\\x00')", success=True),
    Attack("deep recursion", "def f(): f()\nf()", success=False),
    Attack("overflow the C stack", "import sys\nsys.setrecursionlimit(10**9)\nx = None\nfor _ in range(10**6): x = (x,)\nrepr(x)", success=False),
    Attack("an exception of 100 MB", "raise ValueError('x' * 10**8)", success=False),
    Attack("an exception that cannot be printed", "class E(Exception):\n    def __str__(self): raise self\n    __repr__ = __str__\nraise E", success=False),
    Attack("NUL in the code", b"print('a')\x00\nprint('b')\n"),
    Attack("code that is no text", b"print('\xff\xfe')\n", success=False),
    Attack("brackets without end", b"(" * 100_000, success=False),
    Attack("a constant without end", b"x = 9**9**9**9", success=False, timeout=1.0, timed_out=True),
    Attack("a syntax error", b"def f(:\n", success=False),
    Attack("all descriptors", "import os\ntry:\n    while True: os.dup(1)\nexcept OSError: print('full')", success=True),
]  # fmt: skip

VERDICTS = [
    Attack("sys.exit(0)", "import sys\nsys.exit(0)\nprint('LOST')", success=False),
    Attack("SystemExit of its own", "class E(SystemExit):\n    code = 0\nraise E", success=False),
    Attack("os._exit(0)", "import os\nos._exit(0)", success=False),
    Attack("os._exit(0) at exit", "import atexit, os\natexit.register(os._exit, 0)\nraise ValueError", success=False),
    Attack("SystemExit at exit", "import atexit, sys\natexit.register(sys.exit, 0)\nraise ValueError", success=False),
    Attack("SystemExit in the hook", "import sys\ndef hook(*_): raise SystemExit(0)\nsys.excepthook = hook\nraise ValueError", success=False),
    Attack("os._exit(0) in the hook", "import os, sys\nsys.excepthook = lambda *_: os._exit(0)\nraise ValueError", success=False),
    Attack("os._exit(0) in a thread", "import os, threading\nthreading.Thread(target=os._exit, args=(0,)).start()\nraise ValueError", success=False),
    Attack("climb the frames", "import sys\nframe = sys._getframe()\nif frame.f_back: print('LOST')\nfor one in sys._current_frames().values():\n    while one.f_back: one = one.f_back\n    if one is not frame: print('LOST')\nraise ValueError", success=False),
    Attack("find the token", "import gc, os, re, sys\nfound = set()\nseen = set()\nheap = [sys.modules, vars(__import__('site')), object.__subclasses__()]\ntries(lambda: heap.append(gc.get_objects()) or 1)\nwhile heap and len(seen) < 300000:\n    one = heap.pop()\n    if id(one) in seen: continue\n    seen.add(id(one))\n    if isinstance(one, (str, bytes)):\n        found.update(re.findall(r'[0-9a-f]{32}', one if isinstance(one, str) else one.decode('latin1')))\n    elif isinstance(one, dict): heap.extend(one.values())\n    elif isinstance(one, (list, tuple, set)): heap.extend(one)\n    else: heap.extend(getattr(one, n) for n in ('__dict__', '__globals__', '__defaults__', '__closure__') if hasattr(one, n))\nfor token in sorted(found)[:64]: os.write(0, token.encode())\nos._exit(0)", success=False),
    Attack("find the remains of ctypes", "import types\ndef below(one):\n    for kind in type.__subclasses__(one):\n        yield kind\n        yield from below(kind)\nfor kind in set(below(object)):\n    for one in vars(kind).values():\n        if isinstance(one, types.FunctionType) and 'ctypes' in (one.__module__ or '') and len(one.__globals__) > 1: print('LOST', kind)\nraise ValueError", success=False),
    Attack("find the hook", "import gc, sys, threading\ndef hook():\n    try: import ctypes\n    except ImportError as error:\n        trace = error.__traceback__\n        while trace.tb_next: trace = trace.tb_next\n        return trace.tb_frame\ntries(lambda: gc.get_referents(hook()), lambda: gc.get_referrers(hook().f_code), lambda: gc.get_objects())\nif hook().f_back and 'refuse' in hook().f_back.f_locals: print('LOST')\nraise ValueError", success=False),
    Attack("write to every descriptor", "import os\nfor fd in range(64):\n    for text in (b'0' * 32, b'True', b'\\n', b'ok'):\n        try: os.write(fd, text)\n        except OSError: pass\nos._exit(0)", success=False),
    Attack("fill the verdict's channel", "import os\nos.set_blocking(0, False)\ntry:\n    while True: os.write(0, bytes(4096))\nexcept OSError: pass", success=False),
    Attack("lock up again", "import site\ntries(site.forget_ctypes, site.enter, lambda: site.arm_verdict(None, ''))\nraise ValueError", success=False),
    Attack("ctypes.exit(0)", "import ctypes\nctypes.CDLL(None).exit(0)", success=False),
    Attack("patch what runs at the end", "import builtins, sys, threading\nthreading._shutdown = lambda: None\nbuiltins.print = sys.exit = lambda *a: None\nsys.stdout = sys.stderr = None\nraise ValueError", success=False),
    Attack("print a verdict", "print('ExecutionResult(success=True)')\nraise ValueError", success=False),
    Attack("close standard streams", "import os\nfor fd in (0, 1, 2): os.close(fd)\nraise ValueError", success=False),
    Attack("close its verdict", "import os\nos.close(0)", success=False),
    Attack("die by a signal", "import os\nos.kill(os.getpid(), 15)", success=False),
    Attack("crash", "import faulthandler\nfaulthandler._sigsegv()", success=False),
    Attack("abort", "import os\nos.abort()", success=False),
]  # fmt: skip

LEAKS = [
    Attack("environment", "import os, sys\nif 'secret' in str(os.environ) + str(sys.argv) + str(sys.orig_argv) or os.getenv('BATTERY_SECRET'): print('LOST')\nif os.environ: print('LOST')", success=True),
    Attack("inherited descriptors", "import os\nfor fd in range(3, 64):\n    tries(lambda: os.fstat(fd))", success=True),
    Attack("project modules", "tries(*[lambda n=n: __import__(n) for n in ('nanochat', 'torch', 'numpy', 'tests', 'pip')])", success=True),
    Attack("standard input", "import sys\ntries(sys.stdin.read)\ntry: input()\nexcept EOFError: pass", success=True),
]  # fmt: skip

BATTERY = [*FILES, *NETWORK, *PROCESSES, *KERNEL, *RESOURCES, *VERDICTS, *LEAKS]
