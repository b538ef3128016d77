package qtools.core

import kotlin.math.exp
import kotlin.math.ln
import kotlin.math.max
import kotlin.math.min
import kotlin.math.sqrt

/** An object: index of its class, the background not counted, its label ("" where there is none), 0 to 1, its box. */
class Detection(val index: Int, val label: String, val score: Double, val box: Box)

/** The boxes that a detector's answers start from: some shapes around the middle of every cell of its maps. */
class Anchors(
    private val maps: List<List<Int>>,
    private val ratios: List<List<Double>>,
    private val lowest: Double,
    private val highest: Double,
) {
    /** Middle x, middle y, width and height of each place, four numbers a place. */
    val numbers: DoubleArray by lazy {
        val last = maps.lastIndex
        val scales = DoubleArray(maps.size) { lowest + (highest - lowest) * it / max(last, 1) } + 1.0
        scales[last + 1] = max(1.0, scales[last])
        maps.indices.flatMap { ofMap(it, scales[it], scales[it + 1]) }.toDoubleArray()
    }

    private fun ofMap(map: Int, own: Double, next: Double): List<Double> {
        val between = sqrt(own * next)
        val sides = mutableListOf(own to own, between to between)
        for (ratio in ratios[map]) {
            val (long, short) = own * sqrt(ratio) to own / sqrt(ratio)
            sides += listOf(long to short, short to long)
        }
        val (rows, columns) = maps[map]
        return (0 until rows * columns).flatMap { cell ->
            val (x, y) = (cell % columns + 0.5) / columns to (cell / columns + 0.5) / rows
            sides.flatMap { (width, height) -> listOf(x, y, width, height) }
        }
    }
}

/** How two outputs become objects; `decoding` in contract.schema.json says it step by step. */
class Decoding(
    val anchors: Anchors?,
    val variances: List<Double>,
    val background: Int,
    val overlap: Double?,
    val least: Double,
    val candidates: Int,
    val most: Int,
)

private val MOST_LOG = ln(1000.0)

/**
 * What is in a picture, the surest first.
 *
 * @param logits Real numbers of the output, place by place.
 * @param answers Real numbers of the boxes, four a place.
 * @throws IllegalArgumentException if the contract is not a detector's.
 */
fun detect(logits: FloatArray, answers: FloatArray, contract: Contract): List<Detection> {
    val said = requireNotNull(contract.decoding) { "the contract is not a detector's" }
    val places = answers.size / 4
    val kept = mutableListOf<Detection>()
    for (pair in pairs(logits, places, said)) {
        if (kept.size == said.most) break
        val box = box(answers, pair.place, said)
        val covered = kept.any { it.index == pair.index && it.box.overlap(box) > (said.overlap ?: 1.0) }
        if (!covered) kept += Detection(pair.index, contract.labels.getOrElse(pair.index) { "" }, pair.score, box)
    }
    return kept
}

private class Sure(val place: Int, val index: Int, val score: Double)

/** Pairs of a place and a class that are sure enough, the surest first; of equal ones the first place, then class. */
private fun pairs(logits: FloatArray, places: Int, said: Decoding): List<Sure> {
    val classes = logits.size / places
    val nothing = said.background.mod(classes) // -1 is the last
    val found = mutableListOf<Sure>()
    for (place in 0 until places) {
        val row = DoubleArray(classes) { logits[place * classes + it].toDouble() }
        val largest = row.max()
        val powers = DoubleArray(classes) { exp(row[it] - largest) }
        val total = powers.sum()
        for (at in 0 until classes) {
            val score = (powers[at] / total).toFloat().toDouble()
            if (at != nothing && score > said.least) {
                found += Sure(place, if (at > nothing) at - 1 else at, score)
            }
        }
    }
    return found.sortedByDescending { it.score }.take(said.candidates) // stable
}

private fun box(answers: FloatArray, place: Int, said: Decoding): Box {
    var (x, y, width, height) = List(4) { answers[4 * place + it].toDouble() }
    if (said.anchors != null) {
        val (middleX, middleY, wide, high) = List(4) { said.anchors.numbers[4 * place + it] }
        x = middleX + x * wide * said.variances[0]
        y = middleY + y * high * said.variances[0]
        width = wide * exp(min(width * said.variances[1], MOST_LOG))
        height = high * exp(min(height * said.variances[1], MOST_LOG))
    }
    return Box(x - width / 2, y - height / 2, x + width / 2, y + height / 2)
}
