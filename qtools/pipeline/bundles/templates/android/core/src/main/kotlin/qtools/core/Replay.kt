package qtools.core

import java.io.File
import kotlin.math.abs
import kotlin.system.exitProcess

/**
 * What one vector came to.
 *
 * @property input The tensor that was computed here.
 * @property outputs What the network made of it, by name; null where no network was run.
 * @property differing Bytes of the tensor that are not the recorded ones; -1 where there are more or fewer.
 * @property gaps Largest difference of each output from the recorded one, in real units; null where no network was run.
 */
class Replayed(
    val name: String,
    val what: String,
    val input: ByteArray,
    val outputs: Map<String, ByteArray>?,
    val differing: Int,
    val gaps: List<Float>?,
    val passed: Boolean,
) {
    override fun toString(): String {
        val tensor = if (differing == 0) "tensor equal" else "TENSOR DIFFERS in $differing bytes"
        val answer = if (gaps == null) "network not run" else "answer off by ${gaps.joinToString(" and ")}"
        return "vector $name ($what): $tensor, $answer" + if (passed) "" else "  FAILED"
    }
}

/**
 * Replays vectors: is every tensor the recorded one, byte for byte, and every answer near enough?
 *
 * @param read Bytes of a file among the vectors.
 * @param network From the input's bytes to those of each output, by name; null replays the tensors alone.
 * @throws IllegalArgumentException if the vectors belong to another artifact, or if the recorded outputs do not have the
 *   recorded classes on top, or the recorded objects in them, here.
 */
fun replay(
    contract: Contract,
    read: (String) -> ByteArray,
    network: ((ByteArray) -> Map<String, ByteArray>)? = null,
): List<Replayed> {
    val recorded = Entries.of(parseJson(read("vectors.json").decodeToString()), "vectors.json")
    require(recorded.text("artifact_sha256") == contract.artifact.sha256) { "the vectors are of another artifact" }
    val tolerances = listOfNotNull(recorded.inside("tolerance"), recorded.insideOrNull("boxes_tolerance"))
        .map { it.double("value") }
    return recorded.list("vectors").map { each ->
        val vector = Entries.of(each, "vector")
        val picture = Picture(vector.int("width"), vector.int("height"), read(vector.text("rgb")))
        val tensor = prepare(picture, contract)
        val expected = read(vector.text("input"))
        val differing = if (tensor.size == expected.size) tensor.indices.count { tensor[it] != expected[it] } else -1
        val names = if (contract.boxes == null) listOf("output") else listOf("output", "boxes")
        val answers = contract.outputs.zip(names) { said, name -> realNumbers(read(vector.text(name)), said) }
        if (contract.decoding == null) check(vector, answers[0], contract) else checkBoxes(vector, answers, contract)
        val outputs = network?.invoke(tensor)
        val gaps = outputs?.let { given ->
            contract.outputs.zip(answers) { said, answer -> gap(realNumbers(given.getValue(said.name), said), answer) }
        }
        val near = gaps == null || gaps.zip(tolerances).all { (gap, most) -> gap <= most }
        Replayed(vector.text("name"), vector.text("what"), tensor, outputs, differing, gaps, differing == 0 && near)
    }
}

private fun check(vector: Entries, answer: FloatArray, contract: Contract) {
    val classes = vector.list("top").map { Entries.of(it, "top").int("index") }
    require(top(answer, contract, classes.size).map { it.index } == classes) { "other classes are on top here" }
}

/** Scores and sides may differ by the last digits of another library's exponential. */
private const val SAME = 1e-6

private fun checkBoxes(vector: Entries, answers: List<FloatArray>, contract: Contract) {
    val found = detect(answers[0], answers[1], contract)
    val right = vector.list("found").map { Entries.of(it, "found") }
    require(found.map { it.index } == right.map { it.int("index") }) { "other objects are found here" }
    for ((here, there) in found.zip(right)) {
        val ours = listOf(here.score, here.box.left, here.box.top, here.box.right, here.box.bottom)
        val theirs = listOf(there.double("score")) + there.doubles("box")
        require(ours.zip(theirs).all { (one, other) -> abs(one - other) <= SAME }) { "objects lie elsewhere here" }
    }
}

private fun gap(found: FloatArray, expected: FloatArray): Float {
    require(found.size == expected.size) { "${found.size} numbers came out instead of ${expected.size}" }
    var largest = 0f
    for (at in found.indices) largest = maxOf(largest, abs(found[at] - expected[at])) // a NaN stays, and fails
    return largest
}

/** `java -cp ... qtools.core.ReplayKt CONTRACT_JSON VECTORS_FOLDER`: the tensors alone; status 0 if all are equal. */
fun main(arguments: Array<String>) {
    val (contract, folder) = arguments
    val found = replay(Contract.parse(File(contract).readText()), { File(folder, it).readBytes() })
    found.forEach(::println)
    println("${found.count { it.passed }} of ${found.size} vectors passed")
    exitProcess(if (found.all { it.passed }) 0 else 1)
}
