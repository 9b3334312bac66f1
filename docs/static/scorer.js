// Order of the search results: pages with tasks come before pages with reasons and figures.
const BACKGROUND = new Set([
  'architecture', 'benchmarks', 'changelog', 'conformance', 'contributing', 'decisions',
  'scaling',
]);

var Scorer = {
  score: ([docname, , , , score]) => {
    if (BACKGROUND.has(docname)) return score - 20;
    return docname.startsWith('reference/') ? score - 10 : score;
  },
  objNameMatch: 11,
  objPartialMatch: 6,
  objPrio: { 0: 15, 1: 5, 2: -5 },
  objPrioDefault: 0,
  title: 15,
  partialTitle: 7,
  term: 5,
  partialTerm: 2,
};
