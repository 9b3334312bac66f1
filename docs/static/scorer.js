// Order of the search results: pages for users come before pages about the project.
const PROJECT = new Set([
  'architecture', 'benchmarks', 'changelog', 'conformance', 'contributing', 'decisions',
]);

var Scorer = {
  score: ([docname, , , , score]) => (PROJECT.has(docname) ? score - 20 : score),
  objNameMatch: 11,
  objPartialMatch: 6,
  objPrio: { 0: 15, 1: 5, 2: -5 },
  objPrioDefault: 0,
  title: 15,
  partialTitle: 7,
  term: 5,
  partialTerm: 2,
};
