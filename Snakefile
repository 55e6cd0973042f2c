# raw -> slices -> checkpoints -> metrics -> tables; one rule file per word.
import sys
from pathlib import Path

from mrsr import config as mrsr_config

# `mrsr` and `python` in the rules are those of the environment that runs this workflow
shell.prefix(f'export PATH="{Path(sys.executable).parent}:$PATH"; ')

PARAMS = mrsr_config.load(config.get("params", "params.yaml"), config.get("experiment"))
RESULTS = f"results/{PARAMS.name}"
LOGS = f"logs/{PARAMS.name}"


include: "workflow/rules/common.smk"
include: "workflow/rules/raw.smk"
include: "workflow/rules/slices.smk"
include: "workflow/rules/checkpoints.smk"
include: "workflow/rules/metrics.smk"
include: "workflow/rules/tables.smk"


rule all:
    default_target: True
    input:
        rules.tables.input,
