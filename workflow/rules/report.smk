rule write_report:
    """The page of the experiment, in one file that opens by double-click."""
    input:
        unpack(report_inputs),
    output:
        f"{RESULTS}/report.html",
    log:
        f"{LOGS}/report.log",
    conda:
        CONDA
    resources:
        mem_mb=2000,
        runtime=20,
    params:
        settings=settings("report"),
    shell:
        "mrsr report --settings {params.settings} --out {output}"
        f" --results {Path(RESULTS).parent} > {{log}} 2>&1"


rule report:
    """The end of the chain."""
    input:
        rules.write_report.output,
