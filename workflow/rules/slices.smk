rule slice_dataset:
    """Volumes into one store per split, disjoint by subject, lossless."""
    input:
        manifest_of,
    output:
        expand(
            "{results}/slices/{{dataset}}/{split}.h5", results=RESULTS, split=SPLITS
        ),
    log:
        f"{LOGS}/slices/{{dataset}}.log",
    params:
        settings=slice_settings,
        source_settings=slice_source_settings,
    threads: 2
    resources:
        mem_mb=3000,
        runtime=60,
    conda:
        "../../envs/conda.yaml"
    shell:
        "mrsr slices {input} --settings {params.settings:q}"
        " --source-settings {params.source_settings:q}"
        " --out $(dirname {output[0]}) --workers {threads} > {log} 2>&1"


rule slices:
    """The stores of every dataset."""
    input:
        expand(
            "{results}/slices/{dataset}/{split}.h5",
            results=RESULTS,
            dataset=PARAMS.datasets,
            split=SPLITS,
        ),
