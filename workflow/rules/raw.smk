rule raw_source:
    """Download or make one source, verify it, and list what lies there."""
    output:
        "data/raw/{source}/manifest.csv",
    log:
        "logs/raw/{source}.log",
    conda:
        CONDA
    threads: 2
    resources:
        mem_mb=3000,
        runtime=240,
    params:
        settings=settings("raw/{source}"),
    shell:
        "mrsr raw {wildcards.source} --settings {params.settings} --out {output}"
        " --workers {threads} > {log} 2>&1"


rule raw:
    """Everything that the experiment reads."""
    input:
        expand("data/raw/{source}/manifest.csv", source=PARAMS.sources),
