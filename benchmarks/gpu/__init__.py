"""``make gpu``: all that only a GPU can show, by one command, in nine minutes on an H200.

    make gpu                        # all checks
    make gpu QUICK=1                # without the speeds
    make gpu ONLY="loss kernels"    # some of them; what others came to stays
    make gpu DEVICE=cpu             # the same code in small, where there is no GPU

Models have Qwen2.5's true shapes and random weights made on the device. There is no network.
assets/results/gpu.json keeps of each check what it came to last, on which card and versions.

__main__.py      the command: a process a check, a table, a file, an exit code
checks.py        the list of all checks: minutes, and what each shows
figure.py        a measured number, its expected range, the verdict
machine.py       the card, its clock and its memory
worker.py        one check in its process
problem.py       hidden states and heads whose logits reach 20
models.py        students and teachers of random weights, and rows
commands.py      a kd-lab command as a user runs it
page.py          GPU.md: what is computed, measured and unmeasured
step.py          steps of our trainer and of TRL's, timed
every other file one check of the same name
"""
