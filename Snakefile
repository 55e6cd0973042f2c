# raw -> slices -> checkpoints -> metrics -> tables -> figures -> report; one rule file per stage.
import shlex
import sys
from pathlib import Path

from mrsr.errors import UserError, one_line
from mrsr.ops import cluster, provenance, starting, tracked
from mrsr.params import loading
from mrsr.params.settings_files import SettingsFiles
from snakemake.logging import logger
from snakemake.settings.types import ExecMode
from snakemake_logger_plugin_mrsr import last_line, words

last_line.watch(logger, workflow.logger_manager.get_log_handlers())

CONDA = starting.literal(Path(workflow.basedir) / "envs/conda.yaml")

# `mrsr` and `python` in the rules are those of the environment that runs this workflow. A signal
# does not end the shell before the training in it has written its state; what was stopped (75 with a
# state, 143 without) goes back to the queue, where there is one. glibc keeps what it freed up to a GiB
# for the next image, instead of handing it back and having the kernel zero it anew (docs/design.md).
shell.prefix(
    f'export PATH={starting.literal(shlex.quote(str(Path(sys.executable).parent)))}:"$PATH" '
    "MALLOC_MMAP_THRESHOLD_=${{MALLOC_MMAP_THRESHOLD_:-1073741824}} "
    "MALLOC_TRIM_THRESHOLD_=${{MALLOC_TRIM_THRESHOLD_:-1073741824}}; trap : TERM USR1; "
    "trap 'code=$?; case $code in 75|143) python -m mrsr.ops.cluster;; esac; exit $code' EXIT; "
)

try:
    starting.check_config(config)
    PARAMS = loading.load(config.get("params", "params.yaml"), config.get("experiment"))
except UserError as error:  # one line, and not the place in this file
    sys.exit(f"mrsr: error: {one_line(str(error))}")
SETTINGS = SettingsFiles(PARAMS)
RESULTS = f"results/{PARAMS.name}"
LOGS = f"logs/{PARAMS.name}"

# in the process that a person started, not in those of its jobs
if workflow.exec_mode == ExecMode.DEFAULT:
    if workflow.workflow_settings.persistence_backend.name == "FILE":
        provenance.check_unrecorded(PARAMS)
    tracked.check_stages(PARAMS)
    UNASKED = not starting.asked(sys.argv)
    if UNASKED:
        print(starting.announcement(PARAMS.name, config), file=sys.stderr, flush=True)

# `--logger mrsr` calls the methods what the tables call them
words.METHODS.update({key: method.label for key, method in PARAMS.methods.items()})


# on a cluster these run where Snakemake runs: downloads need the network that compute nodes often
# lack, the others take seconds
localrules:
    all,
    raw_source,
    tracking_store,
    write_tables,
    frozen_table,
    draw_figures,
    write_report,


include: "workflow/rules/common.smk"
include: "workflow/rules/raw.smk"
include: "workflow/rules/slices.smk"
include: "workflow/rules/checkpoints.smk"
include: "workflow/rules/metrics.smk"
include: "workflow/rules/tables.smk"
include: "workflow/rules/figures.smk"
include: "workflow/rules/report.smk"


rule all:
    default_target: True
    input:
        rules.tables.input,
        rules.figures.input,
        rules.report.input,


onstart:
    SETTINGS.write()
    # an experiment that a profile chose: what it will cost, before the first job
    if UNASKED and "experiment" in config:
        jobs = 0 if workflow.local_exec else workflow.nodes
        print(starting.cost(PARAMS.name, sys.argv[1:], jobs), file=sys.stderr, flush=True)
    # for `mrsr resume`, should this run be killed
    cluster.note_start(sys.argv[1:])
