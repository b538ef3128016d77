package qtools.vision

import android.content.Context
import qtools.core.Answer
import qtools.core.Contract
import qtools.core.Picture
import qtools.core.prepare
import qtools.core.realNumbers
import qtools.core.top

/** A network that names what a picture shows. */
class Classifier(private val network: Network) : AutoCloseable by network {
    val contract: Contract get() = network.contract

    /** The real numbers of the output for a picture, one per class. */
    fun numbers(picture: Picture): FloatArray =
        realNumbers(network.run(prepare(picture, contract)).getValue(contract.output.name), contract.output)

    /** The likeliest classes of a picture. */
    fun classify(picture: Picture, count: Int = 5): List<Answer> = top(numbers(picture), contract, count)

    companion object {
        /** See [Network.open]. */
        fun open(context: Context, options: RunOptions = RunOptions()) = Classifier(Network.open(context, options))
    }
}
