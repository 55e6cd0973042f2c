rule write_tables:
    """The long table and the paper's tables, measured beside published."""
    input:
        metrics_paths(),
    output:
        results=report(
            f"{RESULTS}/tables/results.csv",
            caption="../report/results.rst",
            category="Tables",
            labels={"table": "every cell"},
        ),
        tables=report(
            expand(
                "{results}/tables/{table}.csv",
                results=RESULTS,
                table=PARAMS.experiment.tables,
            ),
            caption="../report/table.rst",
            category="Tables",
            labels={"table": "as in the paper"},
        ),
        texts=expand(
            "{results}/tables/{table}.{kind}",
            results=RESULTS,
            table=PARAMS.experiment.tables,
            kind=["tex", "md"],
        ),
        differences=report(
            f"{RESULTS}/tables/differences.csv",
            caption="../report/differences.rst",
            category="Tables",
            labels={"table": "differences"},
        ),
        bars=f"{RESULTS}/tables/psnr.png",
        summary=summary_paths(),
    log:
        f"{LOGS}/tables.log",
    conda:
        CONDA
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        settings=settings("tables"),
    shell:
        "mrsr tables --settings {params.settings} --out $(dirname {output.results})"
        " --summary $(dirname {output.results})/../summary --bars {output.bars} {input} > {log} 2>&1"


rule frozen_table:
    """What the frozen networks have learned, on test subjects."""
    input:
        unpack(frozen_inputs),
    output:
        csv=report(
            f"{RESULTS}/tables/frozen.csv",
            caption="../report/frozen.rst",
            category="Tables",
            labels={"table": "frozen networks"},
        ),
        md=f"{RESULTS}/tables/frozen.md",
    log:
        f"{LOGS}/frozen.log",
    conda:
        CONDA
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        sources=frozen_sources,
    shell:
        "mrsr frozen {params.sources} --out $(dirname {output.csv}) > {log} 2>&1"


rule tables:
    """Every table."""
    input:
        rules.write_tables.output,
        frozen_paths(),
