rule slice_dataset:
    """Volumes into one store per split, disjoint by subject, lossless."""
    input:
        manifest_of,
    output:
        train=f"{RESULTS}/slices/{{dataset}}/train.h5",
        validation=f"{RESULTS}/slices/{{dataset}}/validation.h5",
        test=f"{RESULTS}/slices/{{dataset}}/test.h5",
        skipped=f"{RESULTS}/slices/{{dataset}}/skipped.json",
    log:
        f"{LOGS}/slices/{{dataset}}.log",
    conda:
        CONDA
    threads: 2
    resources:
        mem_mb=3000,
        runtime=60,
    params:
        settings=settings("slices/{dataset}"),
        source_settings=source_settings_of,
    shell:
        "mrsr slices {input} --settings {params.settings}"
        " --source-settings {params.source_settings}"
        " --out $(dirname {output.train}) --workers {threads} > {log} 2>&1"


rule guide_dataset:
    """The second contrast of the same scans on the grid of the stores, for guided methods."""
    input:
        manifest=manifest_of,
        train=f"{RESULTS}/slices/{{dataset}}/train.h5",
        validation=f"{RESULTS}/slices/{{dataset}}/validation.h5",
        test=f"{RESULTS}/slices/{{dataset}}/test.h5",
    output:
        train=f"{RESULTS}/slices/{{dataset}}/guide/train.h5",
        validation=f"{RESULTS}/slices/{{dataset}}/guide/validation.h5",
        test=f"{RESULTS}/slices/{{dataset}}/guide/test.h5",
    log:
        f"{LOGS}/slices/{{dataset}}_guide.log",
    conda:
        CONDA
    resources:
        mem_mb=3000,
        runtime=60,
    params:
        settings=settings("slices/{dataset}_guide"),
        source_settings=source_settings_of,
    shell:
        "mrsr guides {input.manifest} --settings {params.settings}"
        " --source-settings {params.source_settings}"
        " --slices $(dirname {input.train}) --out $(dirname {output.train}) > {log} 2>&1"


rule slices:
    """The stores of every dataset, and of the guides that the experiment uses."""
    input:
        expand(
            "{results}/slices/{dataset}/{split}.h5",
            results=RESULTS,
            dataset=PARAMS.datasets,
            split=SPLITS,
        ),
        expand(
            "{results}/slices/{dataset}/guide/{split}.h5",
            results=RESULTS,
            dataset=[name for name in PARAMS.measured if PARAMS.guided(name)],
            split=SPLITS,
        ),
