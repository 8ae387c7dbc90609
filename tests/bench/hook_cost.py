"""Cost of Lua: an empty hook, and setting up an environment (shipped script; site script of 700 lines).

usage: hook_cost.py [--quick]     links hook_cost.c with the static layers beside the program under test"""
import json
import pathlib
import subprocess
import sys

from common import HERE, ROOT, WORK, figure, median
from harness import BINARY

LIBRARIES = 'libevent openssl libpq lua5.4 libpcre2-8 libidn2 libunbound'.split()


def main():
    runs = 1 if '--quick' in sys.argv else 3
    folder = pathlib.Path(BINARY).parent
    WORK.mkdir(mode=0o755, exist_ok=True)
    flags = subprocess.run(['pkg-config', '--cflags', '--libs', *LIBRARIES], check=True, text=True,
                           capture_output=True).stdout.split()
    layers = [str(folder / f'libmp_{n}.a') for n in ('script', 'proto', 'store', 'mail', 'net', 'core')]
    program = WORK / 'hook_cost'
    subprocess.run(['gcc', '-O2', '-g', '-D_GNU_SOURCE', f'-DMOONPOST_SHARE="{ROOT}"', f'-I{ROOT}/engine',
                    f'-I{ROOT}/tests', '-o', str(program), str(HERE / 'hook_cost.c'), '-Wl,--start-group',
                    *layers, '-Wl,--end-group', *flags, '-lcmocka', '-lm', '-lpthread'], check=True)
    rows = [json.loads(subprocess.run([str(program)], check=True, text=True, capture_output=True).stdout)
            for _ in range(runs)]
    for name, goal in (('empty_hook', 20), ('environment_shipped', 100), ('environment_smtpsvr', 100),
                       ('environment_700_lines', 100)):
        got = [r[name] for r in rows]
        figure(name, median(got), 'us', f'< {goal}', median(got) < goal, runs=got)


if __name__ == '__main__':
    main()
