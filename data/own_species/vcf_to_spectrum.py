#!/usr/bin/env python3
r"""From a VCF to the joint site frequency spectrum (SFS) of two species, and bootstrap spectra.

    python vcf_to_spectrum.py birds.vcf.gz species.txt finch tit --callable_bp 45e6 --n_loci 450
    python vcf_to_spectrum.py birds.vcf.gz species.txt finch tit --callable_bp 45e6 --n_loci 450 \
        --project 20 16 --mutation_rate 4.6e-9

The first command shows what each projection would keep. The second writes `observed.fs` and
`observed_bootstrap/`, tells what was lost at each step, and ends with the options of `--simulate`
that fit these data. `species.txt` has a line for each individual: its name in the VCF, a tab, its
species.

dadi projects, folds and cuts genomes into blocks. The VCF is read here, into dadi's data
dictionary: dadi's own reader splits names at blanks, tells a compressed file by its name alone, and
does not say what it leaves out. Genotypes count as in dadi (a haploid one is one chromosome), but
for two things. A genotype without a read (DP=0) is missing, whether there is an AD or not. And a
site of three or four nucleotides, which dadi drops, counts once for each derived one, as it does in
the simulations: dropping these would lose 10% of the SNPs at the lesson's diversity, where 16% of
the sites vary, and 1% where 1.7% do.
"""

import argparse
import functools
import gzip
import importlib.util
import io
import itertools
import logging
import os
import re
import sys
import tempfile
import warnings
import zlib
from collections import Counter
from pathlib import Path

import numpy as np

BLOCK_BP = 1_000_000  # of a bootstrap: so long that blocks are nearly independent
ENOUGH_SNPS = 300  # with fewer, sampling error alone could set off a note
NO_READS = {"DP": "0", "AD": "0,0"}  # some callers write 0/0 where they have read nothing
ANCESTRAL = re.compile(r"(?:^|;)AA(?:_ensembl|_chimp)?=([ACGT])(?=[|;]|$)", re.IGNORECASE)
NOT_VCF = {  # first bytes, what they are, and the way out
    b"version https://git-lfs": "a Git-LFS pointer: 'git lfs pull' fetches the file itself",
    b"BCF": "a BCF: 'bcftools view FILE.bcf > FILE.vcf' makes a VCF of it",
    b"PK\x03\x04": "a zip archive: unzip it",
}


def stop(message, status=1):
    """End with one line on stderr."""
    print("vcf_to_spectrum.py: error:", " ".join(str(message).split()), file=sys.stderr)
    sys.exit(status)


def parse(argv):
    """Read the command line; what is wrong with it ends with exit status 2."""

    def whole(text):
        """Read a whole number, perhaps written 4.5e7 or 45,000,000."""
        number = float(text.replace(",", ""))
        if number < 0 or not number.is_integer():
            raise ValueError
        return int(number)

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0], allow_abbrev=False)
    parser.error = functools.partial(stop, status=2)
    add = parser.add_argument
    add("vcf", metavar="VCF", type=Path, help="plain or gzipped")
    add("list", metavar="LIST", type=Path, help="individuals: a line is a name, a tab, a species")
    add("a", metavar="A", help="species A, as LIST calls it")
    add("b", metavar="B", help="species B")
    add("--project", nargs=2, type=whole, metavar=("N_A", "N_B"), help="chromosomes to project to")
    add("--callable_bp", type=whole, required=True, help="base pairs where a SNP would be seen")
    add("--n_loci", type=whole, required=True, help="RAD loci; of genomes, pieces of 100,000 bp")
    add("--folded", action="store_true", help="the ancestral allele (AA= in INFO) is not known")
    add("--bootstrap", type=whole, default=100, help="spectra of resampled loci (default: 100)")
    add("--seed", type=whole, default=1234, help="of the resampling (default: 1234)")
    add("--mutation_rate", type=float, help="per base pair per generation, to suggest priors")
    add("--out", type=Path, default=Path("observed.fs"), help="(default: observed.fs)")
    options = parser.parse_args(argv)
    if options.a == options.b:
        parser.error(f"A and B are both {options.a!r}")
    if any(n % 2 or n == 0 for n in options.project or ()):
        parser.error("--project takes even numbers, 2 or more: the simulations sample diploids")
    if not options.callable_bp or not options.n_loci:
        parser.error("--callable_bp and --n_loci must be 1 or more")
    if options.mutation_rate is not None and not 0 < options.mutation_rate < 1:
        parser.error("--mutation_rate must lie between 0 and 1")
    if options.out.suffix != ".fs" or not options.out.parent.is_dir():
        parser.error(f"--out {options.out}: a name that ends in .fs, in a folder that exists")
    return options


def read_list(path, pair):
    """Read the species of each individual, {name: species}; both of the pair are among them."""
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError:
        stop(f"{path} is not plain text in UTF-8: save it as such")
    if lines[0].startswith("##fileformat=VCF"):
        stop(f"{path} is a VCF: first the VCF, then the list")
    rows, order = [], 1
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        cells = line.split("\t") if "\t" in line else line.split(None, 1)
        cells = [cell.strip() for cell in cells if cell.strip()][:2]
        if len(cells) < 2 or cells[0].endswith((",", ";")):
            commas = ", not a comma" if re.search("[,;]", line) else ""
            stop(f"{path}, line {number}: {line!r} must be a name, a tab{commas}, and a species")
        if not rows and {cell.lower() for cell in cells} == {"sample", "pop"}:  # dadi's header
            order = 1 if cells[0].lower() == "sample" else -1
        else:
            rows.append((number, *cells[::order]))
    names, species = ([row[i] for row in rows] for i in (1, 2))
    if set(pair) & set(names) and not set(pair) & set(species):
        stop(f"{path}: its columns are swapped: first the individual, then its species")
    lines_of = {}
    for number, name, _ in rows:
        if (first := lines_of.setdefault(name, number)) != number:
            stop(f"{path}: {name!r} is there twice, in lines {first} and {number}")
    for missing in [one for one in pair if one not in species]:
        found = ", ".join(map(repr, sorted(set(species))[:9])) or "nobody"
        stop(f"{path}: no individual of {missing!r}; it lists {found} (quote names with blanks)")
    return dict(zip(names, species, strict=True))


def open_vcf(raw, path):
    """Return the text of an open VCF, plain or gzipped, or stop where it is something else."""
    file = gzip.GzipFile(fileobj=raw) if raw.peek(2)[:2] == b"\x1f\x8b" else raw
    start = file.peek(80)[:80].removeprefix(b"\xef\xbb\xbf")
    for magic, kind in NOT_VCF.items():
        if start.startswith(magic):
            stop(f"{path} is {kind}")
    if not start.startswith(b"#"):
        first = start.split(b"\n")[0].decode(errors="replace")
        stop(f"{path} is not a VCF: it starts with {first!r}")
    return io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape")


def read_vcf(path, species_of, pair):
    """Return dadi's data dictionary of A and B, {CHROM_POS.derived: SNP}, and counts of sites."""
    snps, counts, columns = {}, Counter(), None
    with path.open("rb") as raw:
        for number, line in enumerate(open_vcf(raw, path), 1):
            if line.startswith("##") or not line.strip():
                continue
            cells = line.rstrip("\n").split("\t")
            if columns is None:
                if cells[0] != "#CHROM":
                    break
                n_columns = len(cells)
                columns = columns_of(pair, species_of, [cell.strip() for cell in cells], path)
            elif len(cells) < n_columns or not cells[1].isdigit():
                stop(f"{path}, line {number}: damaged, or cut off before column {n_columns}")
            elif "GT" not in cells[8].split(":"):
                stop(f"{path}, line {number}: there is no GT (genotype) in FORMAT")
            else:
                count_record(cells, columns, pair, snps, counts)
    if columns is None:
        stop(f"{path} is not a VCF: there is no #CHROM line before the first record")
    return snps, counts


def columns_of(pair, species_of, header, path):
    """Return the columns of the individuals of A and of B; all of the list must have one."""
    for name in species_of:
        if (n := header[9:].count(name)) != 1:
            stop(f"{path}: {name!r} of the list is {'there twice' if n else 'not in it'} (#CHROM)")
    everybody = list(enumerate(header))[9:]
    return [[i for i, name in everybody if species_of.get(name) == one] for one in pair]


def count_record(cells, columns, pair, snps, counts):
    """Add what a line of the VCF holds to `snps` and `counts`."""
    chrom, pos, _, ref, alt, _, passed, info, keys, *_ = cells
    counts["records"] += 1
    alleles = [ref.upper(), *alt.upper().split(",")]
    if not set(alleles) <= set("ACGT"):
        return
    counts["SNPs"] += 1
    if passed not in ("PASS", "."):
        return
    counts["passed"] += 1

    keys = keys.split(":")
    no_reads = [(keys.index(key), value) for key, value in NO_READS.items() if key in keys]
    codes = "0123"[: len(alleles)]
    calls = []
    for own in columns:
        fields = [cells[i].split(":") for i in own]
        for i, value in no_reads:
            fields = [each for each in fields if each[i : i + 1] != [value]]
        genotypes = [each[keys.index("GT")] for each in fields]
        counts["haploid"] += sum(map(genotypes.count, codes))
        calls.append([" ".join(genotypes).count(code) for code in codes])
    totals = [a + b for a, b in zip(*calls, strict=True)]
    present = sorted((k for k, total in enumerate(totals) if total), key=totals.__getitem__)
    if len(present) < 2:
        return
    counts["variable"] += 1
    counts["multiallelic"] += len(present) > 2

    ancestral = ANCESTRAL.search(info)
    ancestral = ancestral and ancestral[1].upper()
    known = ancestral in alleles
    counts["known"] += known
    counts["AA is REF"] += ancestral == alleles[0]
    # Where the ancestral allele is not known, the commonest is the best guess; folding forgets it.
    for k in [k for k in present if alleles[k] != ancestral] if known else present[:-1]:
        split = [(sum(own) - own[k], own[k]) for own in calls]
        snps[f"{chrom}_{pos}.{alleles[k]}"] = data_dict_entry(pair, known, *split)


@functools.cache  # SNPs with the same counts share one object, which saves most of the memory
def data_dict_entry(pair, known, *calls):
    """Describe a SNP as dadi does; `calls` are (other alleles, derived alleles) of A and of B."""
    return {
        "segregating": ("other", "derived"),
        "outgroup_allele": "other" if known else "-",
        "calls": dict(zip(pair, calls, strict=True)),
    }


def offer(called):
    """Print what projections would keep; `called` are the chromosomes of A and B at each SNP."""
    evens = []
    for most in called.max(axis=0).tolist():
        step = 2 * -(-most // 16)
        evens.append(list(range(most - most % 2, 0, -step)))
    print("SNPs that are kept with N_A (down) and N_B (across) chromosomes:")
    print(" " * 6, *(f"{b:>6}" for b in evens[1]))
    for a in evens[0]:
        shares = [(called >= (a, b)).all(axis=1).mean() for b in evens[1]]
        print(f"{a:>6}", *(f"{share:>6.1%}" for share in shares))


def notes(snps, counts, options):
    """Yield what looks as if a filter had shaped the spectrum; each may have other causes."""
    if counts["haploid"]:
        yield f"{counts['haploid']:,} genotypes are haploid, and count as one chromosome each."
    if len(snps) < ENOUGH_SNPS:
        return
    minor = Counter(
        min(map(sum, zip(*snp["calls"].values(), strict=True))) for snp in snps.values()
    )
    rare = [minor[k] for k in range(2, min(6, *options.project))]  # none of them fixed in a species
    if minor[1] < 1.25 * max(rare, default=0):
        yield (
            f"{minor[1]:,} singletons beside up to {max(rare):,} SNPs of 2, 3, 4 or 5 copies; at "
            "constant size singletons are twice as many. Did a filter or low coverage remove "
            "some? (Bottlenecks, inbreeding, and haploids coded as diploids do so, too.)"
        )
    sites = sorted({site_of(key) for key in snps})
    gaps = [q - p for (a, p), (b, q) in itertools.pairwise(sites) if a == b]
    locus = options.callable_bp / options.n_loci
    for reach in (min(100, locus), locus):
        near = sum(gap <= reach for gap in gaps)
        expected = -len(sites) * np.expm1(-reach / 2 * len(sites) / options.callable_bp)
        if expected > 20 and near < expected / 5:
            yield (
                f"{near:,} SNPs have another within {reach:,.0f} bp; at random {expected:,.0f} "
                "would. Is it one SNP for each locus? Keep all. (Or is --callable_bp too low?)"
            )
            break
    lost = 2 / 3 * len(sites) / options.callable_bp
    if lost > 0.01 and not counts["multiallelic"]:
        yield (
            f"No site has three nucleotides. If a filter removed them, about {lost:.0%} of the "
            "SNPs are lost that simulations count; keep them (no 'bcftools view -M2')."
        )
    if not options.folded and counts["AA is REF"] == counts["known"]:
        yield (
            "AA is REF at every SNP. If the reference is a genome of A or B, it cannot tell what "
            "is ancestral: use --folded. (If it is an outgroup's, all is well.)"
        )


def site_of(key):
    """Return the chromosome and position in a key of the data dictionary."""
    chrom, _, rest = key.rpartition("_")
    return chrom, int(rest.partition(".")[0])


def diversity(counts):
    """Sum pi in A, pi in B and d_XY over the SNPs of a spectrum, folded or not."""
    n_a, n_b = (n - 1 for n in counts.shape)
    p, q = np.arange(n_a + 1)[:, np.newaxis] / n_a, np.arange(n_b + 1) / n_b
    pi_a = 2 * p * (1 - p) * n_a / (n_a - 1)
    pi_b = 2 * q * (1 - q) * n_b / (n_b - 1)
    return [(counts * each).sum() for each in (pi_a, pi_b, p * (1 - q) + q * (1 - p))]


def resample(spectra, n_chunks, n_samples, seed):
    """Draw chunks of the genome with replacement, and add up the spectra of each sample.

    The chunks for which there is no spectrum are without SNPs. dadi's `bootstraps_from_dd_chunks`
    does the same one by one, which takes minutes, and gigabytes, where there are many loci.
    """
    times = np.random.default_rng(seed).multinomial(n_chunks, [1 / n_chunks] * n_chunks, n_samples)
    return sum(
        times[:, chunk, np.newaxis, np.newaxis] * spectrum.filled(0)
        for chunk, spectrum in enumerate(spectra)
    )


def write(spectra, out):
    """Write the observed spectrum and those of the bootstrap, all or none."""
    folder = out.with_name(f"{out.stem}_bootstrap")
    with tempfile.TemporaryDirectory(prefix=".spectrum", dir=out.parent) as temporary:
        new = [Path(temporary) / f"bootstrap_{i:03}.fs" for i in range(len(spectra))]
        for spectrum, path in zip(spectra, new, strict=True):
            spectrum.to_file(str(path))
        for old in folder.glob("bootstrap_*.fs"):  # of an earlier spectrum
            old.unlink()
        for path in new[1:]:
            folder.mkdir(exist_ok=True)
            path.replace(folder / path.name)
        new[0].replace(out)


def run(options):
    """Read, count, project, resample and write."""
    pair, polarised, project = (options.a, options.b), not options.folded, options.project
    species_of = read_list(options.list, pair)
    print(f"A is {options.a}, B is {options.b}.", flush=True)
    snps, counts = read_vcf(options.vcf, species_of, pair)
    steps = [  # what is left, and the advice where nothing is
        ("records", "records in the VCF", "it has no records"),
        ("SNPs", "SNPs: all alleles are A, C, G or T", "no alleles are nucleotides (A, C, G, T)"),
        ("passed", "passed the filters", "no SNP has PASS or . in its FILTER column"),
        ("variable", "vary within or between A and B", "no SNP varies in A and B"),
        ("known", "have a known ancestral allele", "no SNP has AA= in INFO: use --folded"),
    ]
    for name, text, advice in steps[: 5 if polarised else 4]:
        print(f"{counts[name]:>12,} {text}")
        if not counts[name]:
            stop(f"{options.vcf}: {advice}")
    if counts["multiallelic"]:
        print(f"{counts['multiallelic']:>12,} of three or four alleles: each derived one counts")

    called = np.array([[sum(snp["calls"][one]) for one in pair] for snp in snps.values()])
    called[[polarised and snp["outgroup_allele"] == "-" for snp in snps.values()]] = 0
    if not project:
        offer(called)
        stop("nothing is written yet: choose a row and a column for --project", status=2)
    kept = (called >= project).all(axis=1)
    n_a, n_b = project
    print(f"{kept.sum():>12,} have {n_a} + {n_b} chromosomes called: {kept.mean():.1%}")
    if not kept.any():
        most = " and ".join(map(str, called.max(axis=0)))
        stop(f"--project {n_a} {n_b} keeps no SNP: at most {most} have been called")
    length = round(options.callable_bp * kept.mean() / options.n_loci)
    if not length or len(snps) > options.callable_bp:
        stop(f"--callable_bp {options.callable_bp} are too few for these SNPs or loci")

    import dadi  # here, since it takes seconds

    def spectrum_of(snps):
        return dadi.Spectrum.from_data_dict(snps, pair, project, polarized=polarised)

    observed = spectrum_of(snps)
    # A chromosome that is shorter than a block, such as a RAD locus, is a chunk of its own.
    chunks = dadi.Misc.fragment_data_dict(snps, BLOCK_BP)
    sites = [site_of(key) for key in snps]
    rad = max(pos for _, pos in sites) <= 1.25 * options.callable_bp / options.n_loci
    n_chunks = max(len(chunks), options.n_loci * rad)  # RAD loci without a SNP are not in the VCF
    n_spectra = options.bootstrap if n_chunks > 1 else 0
    sums = resample(map(spectrum_of, chunks), n_chunks, n_spectra, options.seed)
    resampled = [dadi.Spectrum(each, data_folded=options.folded, pop_ids=pair) for each in sums]
    write([observed, *resampled], options.out)

    for note in notes(snps, counts, options):
        print(f"Note: {note}")
    print(f"{options.out}: {observed.S():,.1f} SNPs on {length * options.n_loci:,} base pairs.")
    if options.bootstrap and not n_spectra:
        print("Note: no bootstrap, since all SNPs are in one locus or block of 1 Mb.")
    unit = "loci" if len({chrom for chrom, _ in sites}) == len(chunks) else "blocks of 1 Mb"
    print(f"{n_spectra} bootstrap spectra, of {n_chunks:,} {unit} drawn with replacement.")
    pi_a, pi_b, d_xy = np.divide(diversity(observed.filled(0)), length * options.n_loci)
    print(f"Per base pair: pi of A = {pi_a:.3g}, pi of B = {pi_b:.3g}, d_XY = {d_xy:.3g}.")
    print("Priors: sizes about pi / (4 mu), divergence about (d_XY - pi) / (2 mu) generations ago,")
    print("which is too low if there was gene flow; without it, at most d_XY / (2 mu).")
    if options.mutation_rate:
        size_a, size_b, most = np.divide((pi_a / 2, pi_b / 2, d_xy), 2 * options.mutation_rate)
        about = most - (size_a + size_b)  # the mean pi of both, over 2 mu
        print(f"These are {size_a:,.0f} and {size_b:,.0f} individuals, {about:,.0f} generations,")
        print(f"at most {most:,.0f}.")
    print("To simulate the like, with the mutation rate and priors of these species:")
    print(
        f"--sample_size {n_a // 2} {n_b // 2} --n_loci {options.n_loci} --sequence_length {length}"
    )


def main(argv=None):
    """Run the command; whatever goes wrong is told in one line."""
    options = parse(argv)
    if not importlib.util.find_spec("dadi"):
        stop("dadi is not installed: pip install dadi")
    warnings.simplefilter("ignore")  # what dadi and its imports have to say
    logging.disable()
    try:
        run(options)
    except KeyboardInterrupt:
        stop("stopped; nothing was written", status=130)
    except Exception as error:
        if os.environ.get("RUNML_TRACEBACK"):
            raise
        if isinstance(error, EOFError | zlib.error | gzip.BadGzipFile):
            stop(f"{options.vcf} is damaged or incomplete: {error}")
        if isinstance(error, OSError):
            stop(f"{error.filename or options.out}: {error.strerror}")
        stop(f"unforeseen {type(error).__name__}: {error} (RUNML_TRACEBACK=1 shows where)")


if __name__ == "__main__":
    main()
