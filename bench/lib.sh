# What the comparisons share. Sourced with the tree as the working directory. Rows go to a file, one measurement each:
#   subject workload value
# and tables are medians and ratios of one run: absolute numbers of different days or machines mean nothing.

. e2e/scripts/common.sh

# Prints medians, ranges and ratios to the first subject, from rows.
table() { # file unit
    awk -v unit="$2" '
        { key = $2 SUBSEP $1; n[key]++; v[key, n[key]] = $3
          if (!($1 in s)) { s[$1] = ++subjects; subject[subjects] = $1 }
          if (!($2 in w)) { w[$2] = ++workloads; workload[workloads] = $2 } }
        function median(key,   i, j, t, a) {
            for (i = 1; i <= n[key]; i++) a[i] = v[key, i]
            for (i = 2; i <= n[key]; i++) for (j = i; j > 1 && a[j-1] > a[j]; j--) { t = a[j]; a[j] = a[j-1]; a[j-1] = t }
            low = a[1]; high = a[n[key]]
            return n[key] % 2 ? a[(n[key] + 1) / 2] : (a[n[key] / 2] + a[n[key] / 2 + 1]) / 2 }
        END {
            printf "%-16s %-28s %12s %12s %12s %8s %4s\n", "workload", "subject", "median " unit, "lowest", "highest", "ratio", "n"
            for (i = 1; i <= workloads; i++) for (k = 1; k <= subjects; k++) {
                key = workload[i] SUBSEP subject[k]; if (!n[key]) continue
                m = median(key); if (k == 1) base = m
                printf "%-16s %-28s %12.0f %12.0f %12.0f %8.2f %4d\n", workload[i], subject[k], m, low, high, base ? m / base : 0, n[key] }
        }' "$1"
}
